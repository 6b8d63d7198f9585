//! The one document of a short command that lists many things, written as it goes: `{head..., "NAME": [items...], "error": {...}}`.
//!
//! The document is whole whatever happens: an error in the middle becomes its last field.

use serde::Serialize;
use serde_json::Value;

use super::{Console, failure};
use crate::error::Error;

/// A document under way. In text it prints nothing.
pub(crate) struct Listing<'a> {
    console: &'a Console,
    items: usize,
}

impl<'a> Listing<'a> {
    /// Begins with the fields of `head`, which must be an object.
    pub(super) fn begin(console: &'a Console, name: &str, head: &impl Serialize) -> Self {
        if console.is_json() {
            let head = serde_json::to_value(head).expect("documents have text keys only");
            let Value::Object(fields) = head else { unreachable!("a head is an object") };
            let mut text = String::from("{");
            for (key, value) in fields {
                text.push_str(&format!("{}:{value},\n", Value::from(key)));
            }
            text.push_str(&format!("{}:[", Value::from(name)));
            console.bytes(text.as_bytes());
        }
        Self { console, items: 0 }
    }

    /// Adds an item.
    pub(crate) fn item(&mut self, item: &impl Serialize) {
        if self.console.is_json() {
            let text = serde_json::to_string(item).expect("documents have text keys only");
            let separator = if self.items == 0 { "\n" } else { ",\n" };
            self.console.bytes(separator.as_bytes());
            self.console.bytes(text.as_bytes());
        }
        self.items += 1;
    }

    /// Returns how many items there were.
    pub(crate) fn items(&self) -> usize {
        self.items
    }

    /// Ends the document, with further fields from the object `tail`.
    pub(crate) fn finish(self, tail: &impl Serialize) {
        self.close(serde_json::to_value(tail).expect("documents have text keys only"));
    }

    /// Ends the document with the error that cut it short.
    pub(crate) fn abort(self, error: &Error) {
        self.close(serde_json::json!({ "error": failure::explain(error) }));
    }

    fn close(&self, tail: Value) {
        if !self.console.is_json() {
            return;
        }
        let mut text = String::from("\n]");
        if let Value::Object(fields) = tail {
            for (key, value) in fields {
                text.push_str(&format!(",\n{}:{value}", Value::from(key)));
            }
        }
        text.push_str("}\n");
        self.console.bytes(text.as_bytes());
    }
}
