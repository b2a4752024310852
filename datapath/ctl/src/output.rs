//! JSON, YAML or a table.

use std::io::Write;

use serde::Serialize;

use crate::cli::Format;
use crate::error::Error;

/// Prints a value, for people as `table` makes it.
///
/// # Errors
///
/// When nobody reads.
pub fn print<T: Serialize>(
    out: &mut impl Write,
    format: Format,
    value: &T,
    table: impl FnOnce(&T) -> String,
) -> Result<(), Error> {
    let text = match format {
        Format::Table => table(value),
        Format::Json => json(value)?,
        Format::Yaml => yaml(value)?,
    };
    Ok(out.write_all(text.as_bytes())?)
}

fn json(value: &impl Serialize) -> Result<String, Error> {
    let text = serde_json::to_string_pretty(value).map_err(std::io::Error::from)?;
    Ok(text + "\n")
}

/// YAML, with a newline at its end.
///
/// # Errors
///
/// When the value cannot be written.
pub fn yaml(value: &impl Serialize) -> Result<String, Error> {
    let mut text = serde_saphyr::to_string(value).map_err(std::io::Error::other)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}
