//! Durations as people write them.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration: an integer is milliseconds, a string carries its unit (`500ms`, `60s`, `5m`, `1h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Millis(pub Duration);

impl Millis {
    /// Reads `500ms`, `60s`, `5m`, `1h`; a number without a unit is milliseconds.
    fn parse(text: &str) -> Option<Millis> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let factor = match unit {
            "" | "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        let number: u64 = number.parse().ok()?;
        Some(Millis(Duration::from_millis(number.checked_mul(factor)?)))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            ms if ms > 0 && ms % 1_000 == 0 => write!(f, "{}s", ms / 1_000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

/// A number or a text; what it must say is a rule of the field, which knows its bounds.
impl JsonSchema for Millis {
    fn schema_name() -> Cow<'static, str> {
        "Millis".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"x-kubernetes-int-or-string": true, "maxLength": 16})
    }
}

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MillisVisitor;

        impl Visitor<'_> for MillisVisitor {
            type Value = Millis;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("milliseconds, or a string such as \"500ms\", \"60s\", \"5m\" or \"1h\"")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Millis, E> {
                Ok(Millis(Duration::from_millis(value)))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Millis, E> {
                u64::try_from(value)
                    .map(|value| Millis(Duration::from_millis(value)))
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Millis, E> {
                Millis::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(MillisVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_integers_and_units() {
        for (text, ms) in [
            ("250", 250),
            ("\"250\"", 250),
            ("\"500ms\"", 500),
            ("\"60s\"", 60_000),
            ("\"5m\"", 300_000),
            ("\"1h\"", 3_600_000),
        ] {
            let read: Millis = serde_json::from_str(text).unwrap();
            assert_eq!(read.0, Duration::from_millis(ms), "{text}");
        }
    }

    #[test]
    fn rejects_what_is_no_duration() {
        for text in ["-1", "1.5", "\"\"", "\"s\"", "\"5 s\"", "\"5d\"", "\"99999999999999999999h\"", "null"] {
            assert!(serde_json::from_str::<Millis>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn writes_the_longest_whole_unit() {
        assert_eq!(Millis(Duration::from_millis(60_000)).to_string(), "60s");
        assert_eq!(Millis(Duration::from_millis(1_500)).to_string(), "1500ms");
        assert_eq!(Millis(Duration::ZERO).to_string(), "0ms");
    }
}
