//! `postsort models`.

use serde_json::{Value, json};

use super::remote::{Server, call};
use super::{Settings, print};
use crate::error::Error;

#[derive(Debug, clap::Args)]
pub(super) struct Models {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// What is in a models folder, or on a running server
    List(Box<List>),
    /// Load a model
    Load(On),
    /// Drop a model from memory
    Unload(On),
    /// Keep a model in memory
    Pin(On),
    /// Allow a model to be evicted
    Unpin(On),
    /// Change to the folder's current revision, or to the one named, without a failed request
    Reload(Reload),
    /// Let the revision on trial answer
    Promote(On),
    /// Give up the revision on trial, or change back to the previous one
    Rollback(On),
    /// Read the models folder again
    Rescan(Server),
}

#[derive(Debug, clap::Args)]
struct Reload {
    #[command(flatten)]
    on: On,
    /// Name of the revision's folder
    #[arg(long, value_name = "NAME")]
    revision: Option<String>,
    /// Try it on this share of the mails first, 0 to 1
    #[arg(long, value_name = "SHARE")]
    shadow: Option<f64>,
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    settings: Settings,
    /// Ask this server instead of reading the folder
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct On {
    /// The model
    model: String,
    #[command(flatten)]
    server: Server,
}

impl Models {
    pub(super) fn run(self) -> Result<(), Error> {
        let (on, action) = match self.action {
            Action::List(list) => return list.run(),
            Action::Load(on) => (on, "load"),
            Action::Unload(on) => (on, "unload"),
            Action::Pin(on) => (on, "pin"),
            Action::Unpin(on) => (on, "unpin"),
            Action::Promote(on) => (on, "promote"),
            Action::Rollback(on) => (on, "rollback"),
            Action::Reload(Reload { on, revision, shadow }) => {
                let choice = json!({"revision": revision, "shadow": shadow});
                return table(&[act(&on.server.server, &on.model, "reload", &choice)?]);
            }
            Action::Rescan(server) => {
                let changes = call(&server.server, "/v1/models", Some(&json!({})))?;
                return print(&changes.to_string());
            }
        };
        let shown = act(&on.server.server, &on.model, action, &json!({}))?;
        table(&[shown])
    }
}

/// Whatever else a name contains, it stays one path segment.
pub(super) fn act(server: &str, model: &str, action: &str, body: &Value) -> Result<Value, Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let segment: String = model
        .bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect();
    call(server, &format!("/v1/models/{segment}/{action}"), Some(body))
}

impl List {
    fn run(self) -> Result<(), Error> {
        let models = match &self.server {
            Some(server) => call(server, "/v1/models", None)?["models"].clone(),
            None => {
                let config = self.settings.resolve()?;
                let found = postsort_models::discover(&config.models_dir)
                    .map_err(|e| Error::setup(config.models_dir.display().to_string(), e))?;
                found.iter().map(describe).collect()
            }
        };
        if self.json {
            return print(&models.to_string());
        }
        table(models.as_array().map_or(&[], Vec::as_slice))
    }
}

fn describe(found: &postsort_models::Found) -> Value {
    match &found.folder {
        Ok(folder) => json!({
            "name": found.name,
            "state": "unloaded",
            "architecture": folder.config().architecture,
            "labels": folder.labels().names(),
            "tokens_max": folder.tokens_max(),
            "weight_bytes": folder.weight_bytes(),
            "revision": folder.revision(),
        }),
        Err(error) => {
            json!({"name": found.name, "state": "failed", "last_error": error.to_string()})
        }
    }
}

pub(super) fn table(models: &[Value]) -> Result<(), Error> {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_BORDERS_ONLY);
    table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
    table.set_header(["model", "state", "architecture", "labels", "tokens", "revision", "remark"]);
    for model in models {
        let text = |key: &str| match &model[key] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let labels: Vec<&str> =
            model["labels"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let labels =
            if labels.len() > 6 { format!("{} labels", labels.len()) } else { labels.join(", ") };
        let (name, state, architecture) = (text("name"), text("state"), text("architecture"));
        let remark = text("last_error");
        table.add_row([
            name,
            state,
            architecture,
            labels,
            text("tokens_max"),
            text("revision"),
            remark,
        ]);
    }
    print(&table.to_string())
}
