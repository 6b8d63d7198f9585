//! What all sections of the configuration share: typed values, and complaints that name file, line and the nearest valid word.

use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use jiff::tz::TimeZone;
use toml_edit::{Item, TableLike, Value};

use super::ConfigError;
use crate::nearest::nearest;

/// The text of a configuration file, for finding lines.
pub(super) struct Reader<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
}

impl Reader<'_> {
    /// Returns a complaint about the place `span`; without one about the beginning of the file.
    pub(super) fn error(&self, span: Option<Range<usize>>, message: String) -> ConfigError {
        let start = span.map_or(0, |span| span.start).min(self.text.len());
        let line = 1 + self.text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count();
        // The TOML reader explains on several lines; ours are single.
        let message = message.trim().replace('\n', ", ");
        ConfigError { path: self.path.to_path_buf(), line, message, nearest: None, known: vec![] }
    }

    /// Returns a path of the file; relative ones are meant from its folder.
    pub(super) fn path(&self, text: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(text)
    }
}

/// A table of the file, with the name by which complaints call it.
pub(super) struct Section<'a> {
    reader: &'a Reader<'a>,
    table: &'a dyn TableLike,
    name: String,
    span: Option<Range<usize>>,
}

impl<'a> Section<'a> {
    /// Returns the whole file.
    pub(super) fn root(reader: &'a Reader<'a>, table: &'a dyn TableLike) -> Self {
        Self { reader, table, name: String::new(), span: None }
    }

    /// Returns the section under `key`, if it is there; `example` is how one looks.
    pub(super) fn section(&self, key: &str, example: &str) -> Result<Option<Self>, ConfigError> {
        let Some(item) = self.table.get(key) else { return Ok(None) };
        let name = self.path_of(key);
        let table = item.as_table_like().ok_or_else(|| {
            self.reader.error(self.span_of(key), format!("{name} must be a table: {example}"))
        })?;
        let span = self.span_of(key);
        Ok(Some(Self { reader: self.reader, table, name, span }))
    }

    /// Returns the sections below `key`, such as `vault.main` and `vault.second`, in the order of the file.
    pub(super) fn named_sections(
        &self,
        key: &str,
        example: &str,
    ) -> Result<Vec<(&'a str, Section<'a>)>, ConfigError> {
        let Some(item) = self.table.get(key) else { return Ok(Vec::new()) };
        let wrong = |span| self.reader.error(span, format!("{key} must be tables: {example}"));
        let all = item.as_table_like().ok_or_else(|| wrong(item.span()))?;
        let mut sections = Vec::new();
        for (name, item) in all.iter() {
            let table = item.as_table_like().ok_or_else(|| wrong(item.span()))?;
            let section = Section {
                reader: self.reader,
                table,
                name: format!("{key}.{name}"),
                span: item.span(),
            };
            sections.push((name, section));
        }
        Ok(sections)
    }

    /// Returns the keys, in the order of the file.
    pub(super) fn keys(&self) -> Vec<String> {
        self.table.iter().map(|(key, _)| key.to_string()).collect()
    }

    /// Returns the item under `key`.
    pub(super) fn get(&self, key: &str) -> Option<&'a Item> {
        self.table.get(key)
    }

    /// Refuses keys that are not `known`.
    pub(super) fn only_known(&self, known: &[&'static str]) -> Result<(), ConfigError> {
        for (key, item) in self.table.iter() {
            if known.contains(&key) {
                continue;
            }
            let span = self.table.key(key).and_then(|key| key.span()).or_else(|| item.span());
            let place =
                if self.name.is_empty() { String::new() } else { format!(" in [{}]", self.name) };
            let mut error = self.reader.error(span, format!("unknown key \"{key}\"{place}"));
            error.nearest = nearest(key, known.iter().copied()).map(str::to_string);
            error.known = known.to_vec();
            return Err(error);
        }
        Ok(())
    }

    /// Reads the value under `key`, if it is there; `read` says what is wrong with it.
    pub(super) fn value<T>(
        &self,
        key: &str,
        read: impl FnOnce(&'a Value) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(item) = self.table.get(key) else { return Ok(None) };
        let read = match item.as_value() {
            Some(value) => read(value),
            None => Err("expected a value, found a table".to_string()),
        };
        read.map(Some).map_err(|message| self.wrong(key, message))
    }

    /// Reads the path under `key`, if it is there; `expected` says what it is the path of, as in "the path of a file".
    pub(super) fn path(&self, key: &str, expected: &str) -> Result<Option<PathBuf>, ConfigError> {
        let text = self.value(key, |value| match value.as_str() {
            Some(text) if !text.is_empty() => Ok(text),
            _ => Err(format!("expected {expected}")),
        })?;
        Ok(text.map(|text| self.reader.path(text)))
    }

    /// Reads the text under `key`, if it is there.
    pub(super) fn text(&self, key: &str, expected: &str) -> Result<Option<&'a str>, ConfigError> {
        self.value(key, |value| match value.as_str() {
            Some(text) if !text.is_empty() => Ok(text),
            _ => Err(format!("expected {expected}")),
        })
    }

    /// Reads the list of texts under `key`, if it is there.
    pub(super) fn texts(
        &self,
        key: &str,
        expected: &str,
    ) -> Result<Option<Vec<String>>, ConfigError> {
        let wrong = || format!("expected {expected}");
        self.value(key, |value| {
            let array = value.as_array().ok_or_else(wrong)?;
            let texts = array.iter().map(Value::as_str);
            let texts = texts.map(|text| text.filter(|text| !text.is_empty()).map(str::to_string));
            texts.map(|text| text.ok_or_else(wrong)).collect()
        })
    }

    /// Reads the flag under `key`; `false` if it is not there.
    pub(super) fn flag(&self, key: &str) -> Result<bool, ConfigError> {
        let flag = self.value(key, |value| value.as_bool().ok_or("expected true or false".into()));
        Ok(flag?.unwrap_or(false))
    }

    /// Reads the number within `range` under `key`, if it is there.
    pub(super) fn number(
        &self,
        key: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, ConfigError> {
        self.value(key, |value| {
            value.as_integer().filter(|number| range.contains(number)).ok_or_else(|| {
                format!("expected a number from {} to {}", range.start(), range.end())
            })
        })
    }

    /// Reads the length of time within `range` under `key`, if it is there.
    pub(super) fn duration(
        &self,
        key: &str,
        range: RangeInclusive<Duration>,
    ) -> Result<Option<Duration>, ConfigError> {
        self.value(key, |value| {
            let text = value.as_str().ok_or("expected a duration such as \"90s\" or \"2h\"")?;
            let duration = crate::duration::parse(text)?;
            match range.contains(&duration) {
                true => Ok(duration),
                false => Err(format!(
                    "expected a duration from {} to {}",
                    crate::duration::text(*range.start()),
                    crate::duration::text(*range.end())
                )),
            }
        })
    }

    /// Reads a value under `key` that is written as text and knows how to read itself.
    pub(super) fn parsed<T: FromStr<Err = String>>(
        &self,
        key: &str,
        expected: &str,
    ) -> Result<Option<T>, ConfigError> {
        self.value(key, |value| match value.as_str() {
            Some(text) => T::from_str(text),
            None => Err(format!("expected {expected}")),
        })
    }

    /// Reads the name of a time zone under `key`, if it is there.
    pub(super) fn zone(&self, key: &str) -> Result<Option<TimeZone>, ConfigError> {
        let Some(name) = self.text(key, "a time zone such as \"Europe/Berlin\"")? else {
            return Ok(None);
        };
        let unknown = |_| {
            let mut error = self.wrong(key, format!("there is no time zone \"{name}\""));
            let names: Vec<String> =
                jiff::tz::db().available().map(|name| name.as_str().to_string()).collect();
            error.nearest = nearest(name, names.iter().map(String::as_str)).map(str::to_string);
            error
        };
        TimeZone::get(name).map(Some).map_err(unknown)
    }

    /// Returns the sections of a list of tables, however it is written: `[{ ... }]` or `[[...]]`.
    pub(super) fn list(&self, key: &str, expected: &str) -> Result<Vec<Section<'a>>, ConfigError> {
        let wrong = || self.wrong(key, format!("expected {expected}"));
        let section = |table: &'a dyn TableLike, span| Section {
            reader: self.reader,
            table,
            name: self.path_of(key),
            span,
        };
        match self.table.get(key) {
            None => Ok(Vec::new()),
            Some(Item::ArrayOfTables(tables)) => {
                Ok(tables.iter().map(|table| section(table, table.span())).collect())
            }
            Some(item) => {
                let array = item.as_array().ok_or_else(wrong)?;
                let table = |value: &'a Value| {
                    let table = value.as_inline_table()?;
                    Some(section(table, value.span()))
                };
                array.iter().map(|value| table(value).ok_or_else(wrong)).collect()
            }
        }
    }

    /// Returns a complaint about the value under `key`, with the word that was most likely meant.
    pub(super) fn unknown_word<'w>(
        &self,
        key: &str,
        message: String,
        word: &str,
        known: impl IntoIterator<Item = &'w str>,
    ) -> ConfigError {
        let mut error = self.wrong(key, message);
        error.nearest = nearest(word, known).map(str::to_string);
        error
    }

    /// Returns the name of the section as complaints call it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns a path of the file; relative ones are meant from its folder.
    pub(super) fn resolve(&self, text: &str) -> PathBuf {
        self.reader.path(text)
    }

    /// Returns a complaint about the value under `key`.
    pub(super) fn wrong(&self, key: &str, message: impl AsRef<str>) -> ConfigError {
        let message = format!("{}: {}", self.path_of(key), message.as_ref());
        self.reader.error(self.span_of(key), message)
    }

    /// Returns a complaint about one value of a list under `key`.
    pub(super) fn wrong_element(
        &self,
        key: &str,
        value: &Value,
        message: impl AsRef<str>,
    ) -> ConfigError {
        let message = format!("{}: {}", self.path_of(key), message.as_ref());
        self.reader.error(value.span(), message)
    }

    /// Returns a complaint about the section as a whole.
    pub(super) fn complaint(&self, message: String) -> ConfigError {
        self.reader.error(self.span.clone(), message)
    }

    fn path_of(&self, key: &str) -> String {
        match self.name.as_str() {
            "" => key.to_string(),
            name => format!("{name}.{key}"),
        }
    }

    fn span_of(&self, key: &str) -> Option<Range<usize>> {
        self.table.get(key).and_then(Item::span)
    }
}
