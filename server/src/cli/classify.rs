//! `postsort classify`: a mail's labels, by a running server or in this process.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::mails::raw_json;
use super::stream::StreamOptions;
use super::{Settings, print, read_input, runtime};
use crate::error::Error;
use crate::http::{ClassifyResponse, Presentation};
use crate::input::Input;
use crate::pipeline::{ClassifyOptions, Pipeline};

#[derive(Debug, clap::Args)]
pub(super) struct Classify {
    /// Raw messages (RFC 5322), or - for standard input
    #[arg(required_unless_present_any = ["text", "stream"], value_name = "FILE.eml|-")]
    paths: Vec<PathBuf>,
    /// A plain text instead of a mail
    #[arg(long, conflicts_with = "paths")]
    text: Option<String>,
    /// Model [default: the default model]
    #[arg(long)]
    model: Option<String>,
    /// Ask this server instead of loading the model here
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    stream: StreamOptions,
    #[command(flatten)]
    settings: Settings,
}

impl Classify {
    pub(super) fn run(self) -> Result<(), Error> {
        if let Some(path) = &self.stream.stream {
            let by = (self.model, self.server.as_deref());
            return self.stream.run(path, by, self.settings);
        }
        let mut mails = Vec::new();
        for path in &self.paths {
            mails.push((path.display().to_string(), Input::Raw(read_input(path)?)));
        }
        mails.extend(self.text.map(|text| ("text".to_owned(), Input::Text(text))));
        let (names, inputs): (Vec<String>, Vec<Input>) = mails.into_iter().unzip();
        let model = self.model.as_deref();
        let answer = match &self.server {
            Some(server) => remote(server, model, &inputs)?,
            None => in_process(self.settings, model, inputs)?,
        };
        if self.json {
            return print(&answer.to_string());
        }
        show(&names, &answer)
    }
}

fn remote(server: &str, model: Option<&str>, inputs: &[Input]) -> Result<Value, Error> {
    let input = |input: &Input| match input {
        Input::Raw(raw) => raw_json(raw),
        Input::Text(text) => json!(text),
        // The command line makes no others.
        Input::Pair(..) | Input::Fields(_) => Value::Null,
    };
    let inputs: Vec<Value> = inputs.iter().map(input).collect();
    super::remote::call(server, "/v1/classify", Some(&json!({"model": model, "inputs": inputs})))
}

fn in_process(settings: Settings, model: Option<&str>, inputs: Vec<Input>) -> Result<Value, Error> {
    let config = settings.resolve()?;
    let pipeline = std::sync::Arc::new(Pipeline::new(&config)?);
    let answer =
        runtime()?.block_on(pipeline.classify(model, inputs, ClassifyOptions::default()))?;
    let response = ClassifyResponse::new(&answer, Presentation::default());
    // Through text: a score is an f32, and as a number of JSON's it would get digits it has not.
    let text = serde_json::to_string(&response).map_err(|e| Error::setup("answer", e))?;
    serde_json::from_str(&text).map_err(|e| Error::setup("answer", e))
}

fn show(names: &[String], answer: &Value) -> Result<(), Error> {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_BORDERS_ONLY);
    table.set_header(["mail", "label", "score", "others", "tokens"]);
    let results = answer["results"].as_array().into_iter().flatten();
    for (name, result) in names.iter().zip(results) {
        let label = |label: &Value| {
            let score = label["score"].as_f64().unwrap_or(f64::NAN);
            (label["label"].as_str().unwrap_or_default().to_owned(), format!("{score:.4}"))
        };
        let labels: Vec<_> = result["labels"].as_array().into_iter().flatten().map(label).collect();
        let Some((best, score)) = labels.first() else { continue };
        let others: Vec<String> = labels
            .iter()
            .skip(1)
            .take(4)
            .map(|(label, score)| format!("{label} {score}"))
            .collect();
        let truncated = result["truncated"] == true;
        let tokens = format!("{}{}", result["tokens"], if truncated { " (cut)" } else { "" });
        table.add_row([name.clone(), best.clone(), score.clone(), others.join(", "), tokens]);
    }
    print(&table.to_string())
}
