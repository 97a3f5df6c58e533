//! Typed reading of a JSON object, with the setting's name in every error.

use serde_json::Value;

use crate::error::ModelError;

/// Beyond this a size lies: no encoder comes near, and sizes may be multiplied without overflow.
pub(super) const SIZE_MAX: usize = 1 << 24;

/// A JSON object.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a Value);

impl Fields<'_> {
    pub(super) fn text(&self, field: &str) -> Option<&str> {
        self.0.get(field).and_then(Value::as_str)
    }

    pub(super) fn flag(&self, field: &str, default: bool) -> bool {
        self.0.get(field).and_then(Value::as_bool).unwrap_or(default)
    }

    pub(super) fn number(&self, field: &str, default: f64) -> Result<f64, ModelError> {
        match self.0.get(field) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_f64()
                .filter(|number| number.is_finite() && *number > 0.0)
                .ok_or_else(|| ModelError::bad_config(field, "is not a number above 0")),
        }
    }

    /// Zero allowed.
    pub(super) fn count(&self, field: &str, default: usize) -> Result<usize, ModelError> {
        match self.0.get(field) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_u64()
                .and_then(|number| usize::try_from(number).ok())
                .filter(|&number| number <= SIZE_MAX)
                .ok_or_else(|| {
                    ModelError::bad_config(field, format!("is not a number up to {SIZE_MAX}"))
                }),
        }
    }

    pub(super) fn size(&self, field: &str, default: Option<usize>) -> Result<usize, ModelError> {
        match (self.0.get(field), default) {
            (None | Some(Value::Null), None) => Err(ModelError::bad_config(field, "is missing")),
            (_, default) => match self.count(field, default.unwrap_or(0))? {
                0 => Err(ModelError::bad_config(field, "is 0")),
                size => Ok(size),
            },
        }
    }
}
