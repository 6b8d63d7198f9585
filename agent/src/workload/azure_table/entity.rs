//! An entity and its properties, each with its exact type; and the one line by which it stands in a point.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

/// An entity. As a line of a point: `{"PartitionKey":"a","RowKey":"b","properties":{"Age":["Edm.Int32",7]}}`, properties in order of their names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entity {
    #[serde(rename = "PartitionKey")]
    pub(super) partition: String,
    #[serde(rename = "RowKey")]
    pub(super) row: String,
    pub(super) properties: BTreeMap<String, (String, Value)>,
}

/// What the service sets itself, and keys, which stand apart.
const NOT_PROPERTIES: [&str; 3] = ["PartitionKey", "RowKey", "Timestamp"];

impl Entity {
    /// Reads an entity as the service gives it.
    pub(super) fn from_wire(value: &Value) -> Result<Self, String> {
        let fields = value.as_object().ok_or("an entity is no object")?;
        let key = |name: &str| {
            let text = fields.get(name).and_then(Value::as_str);
            text.map(str::to_string).ok_or(format!("an entity has no {name}"))
        };
        let mut properties = BTreeMap::new();
        for (name, value) in fields {
            let special = name.contains('@') || name.starts_with("odata.");
            if special || NOT_PROPERTIES.contains(&name.as_str()) || value.is_null() {
                continue;
            }
            let annotation = fields.get(&format!("{name}@odata.type")).and_then(Value::as_str);
            let typed = typed(annotation, value).ok_or_else(|| {
                format!("the property \"{name}\" is of a type that is not known: {annotation:?}")
            })?;
            properties.insert(name.clone(), typed);
        }
        Ok(Self { partition: key("PartitionKey")?, row: key("RowKey")?, properties })
    }

    /// Returns the entity as the service takes it.
    pub(super) fn to_wire(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("PartitionKey".to_string(), self.partition.clone().into());
        fields.insert("RowKey".to_string(), self.row.clone().into());
        for (name, (kind, value)) in &self.properties {
            // What JSON tells by itself needs no word, but for numbers, which it does not tell apart.
            if !matches!(kind.as_str(), "Edm.String" | "Edm.Boolean" | "Edm.Int32") {
                fields.insert(format!("{name}@odata.type"), kind.clone().into());
            }
            fields.insert(name.clone(), value.clone());
        }
        Value::Object(fields)
    }

    /// Returns about how many bytes it takes in a request.
    pub(super) fn weight(&self) -> usize {
        let properties = self.properties.iter();
        let weight = |(name, (kind, value)): (&String, &(String, Value))| {
            2 * name.len() + kind.len() + 24 + value.as_str().map_or(24, |text| 2 * text.len())
        };
        512 + 6 * (self.partition.len() + self.row.len()) + properties.map(weight).sum::<usize>()
    }
}

fn typed(annotation: Option<&str>, value: &Value) -> Option<(String, Value)> {
    let kind = match (annotation, value) {
        (Some(kind), _) => kind,
        (None, Value::String(_)) => "Edm.String",
        (None, Value::Bool(_)) => "Edm.Boolean",
        (None, Value::Number(number)) if number.is_f64() => "Edm.Double",
        (None, Value::Number(_)) => "Edm.Int32",
        _ => return None,
    };
    let fits = match kind {
        "Edm.String" | "Edm.Guid" | "Edm.DateTime" | "Edm.Binary" => value.is_string(),
        "Edm.Boolean" => value.is_boolean(),
        "Edm.Int32" => value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
        "Edm.Int64" => value.as_str().is_some_and(|text| text.parse::<i64>().is_ok()),
        "Edm.Double" => return Some((kind.to_string(), double(value)?)),
        _ => false,
    };
    fits.then(|| (kind.to_string(), value.clone()))
}

// One form for each number: 1 and 1.0 are the same double.
fn double(value: &Value) -> Option<Value> {
    match value {
        Value::Number(number) => Number::from_f64(number.as_f64()?).map(Value::Number),
        Value::String(text) => match text.as_str() {
            "NaN" | "Infinity" | "-Infinity" => Some(value.clone()),
            text => Number::from_f64(text.parse().ok()?).map(Value::Number),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_type_comes_and_goes_exactly() {
        let wire = json!({
            "odata.etag": "W/\"x\"", "PartitionKey": "p'1", "RowKey": "", "Timestamp@odata.type": "Edm.DateTime",
            "Timestamp": "2026-01-01T00:00:00Z", "s": "5", "b": true, "i": 7, "d": 1.5,
            "whole@odata.type": "Edm.Double", "whole": 3,
            "nan@odata.type": "Edm.Double", "nan": "NaN", "minus@odata.type": "Edm.Double", "minus": "-Infinity",
            "l@odata.type": "Edm.Int64", "l": "9223372036854775807",
            "g@odata.type": "Edm.Guid", "g": "c9da6455-213d-42c9-9a79-3e9149a57833",
            "t@odata.type": "Edm.DateTime", "t": "2014-05-22T17:34:01.1234567Z",
            "raw@odata.type": "Edm.Binary", "raw": "AAEC/w==",
        });

        let entity = Entity::from_wire(&wire).unwrap();
        let line = serde_json::to_string(&entity).unwrap();
        let back: Entity = serde_json::from_str(&line).unwrap();

        assert_eq!(back, entity);
        assert_eq!(Entity::from_wire(&back.to_wire()).unwrap(), entity);
        assert_eq!(entity.properties.len(), 11);
        assert_eq!(entity.properties["whole"], ("Edm.Double".to_string(), json!(3.0)));
        assert!(line.contains(r#""l":["Edm.Int64","9223372036854775807"]"#), "{line}");
        assert!(!line.contains("Timestamp"), "{line}");
    }

    #[test]
    fn what_is_not_understood_is_refused_and_not_kept_as_something_else() {
        for property in [
            json!({ "x@odata.type": "Edm.Point", "x": "1 2" }),
            json!({ "x@odata.type": "Edm.Int64", "x": "many" }),
            json!({ "x": 3_000_000_000u64 }),
            json!({ "x": [1] }),
        ] {
            let mut wire = property;
            wire["PartitionKey"] = "p".into();
            wire["RowKey"] = "r".into();
            assert!(Entity::from_wire(&wire).is_err(), "{wire}");
        }
    }
}
