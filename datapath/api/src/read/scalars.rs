//! Strings, numbers, addresses, durations. Each function reports what is wrong and returns `None` then.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::Value;

use super::quoted_list;
use crate::duration;
use crate::limits::{NAME_BYTES_MAX, STRING_BYTES_MAX, TIMEOUT_MIN};
use crate::path::Path;
use crate::problem::{Problems, quoted};
use crate::suggest::did_you_mean;

/// A value as a message names it.
pub(crate) fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Number(value) => format!("the number {value}"),
        Value::String(value) => format!("the string {}", quoted(value)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

fn expected<T>(what: &str, value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<T> {
    problems.push(at, format!("expected {what}, not {}", kind(value)));
    None
}

pub(crate) fn text<'v>(value: &'v Value, at: &Path<'_>, problems: &mut Problems) -> Option<&'v str> {
    let Value::String(text) = value else {
        return expected("a string", value, at, problems);
    };
    if text.len() > STRING_BYTES_MAX {
        problems.push(at, format!("{} bytes; at most {STRING_BYTES_MAX} are allowed", text.len()));
        return None;
    }
    Some(text)
}

/// Text for people; control characters would spoil a log.
pub(crate) fn reason(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<String> {
    let text = text(value, at, problems)?;
    if text.chars().any(char::is_control) {
        problems.push(at, "control characters are not allowed");
        return None;
    }
    Some(text.to_owned())
}

/// `/^\S+$/`
pub(crate) fn name(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<String> {
    let Value::String(name) = value else {
        return expected("a name", value, at, problems);
    };
    let fault = if name.is_empty() {
        "a name cannot be empty".to_owned()
    } else if name.len() > NAME_BYTES_MAX {
        format!("a name of {} bytes; at most {NAME_BYTES_MAX} are allowed", name.len())
    } else if name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        format!("the name {} has white space in it", quoted(name))
    } else {
        return Some(name.clone());
    };
    problems.push(at, fault);
    None
}

pub(crate) fn boolean(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<bool> {
    match value {
        Value::Bool(value) => Some(*value),
        other => expected("true or false", other, at, problems),
    }
}

pub(crate) fn integer(
    value: &Value,
    at: &Path<'_>,
    problems: &mut Problems,
    range: RangeInclusive<u32>,
) -> Option<u32> {
    let (first, last) = (*range.start(), *range.end());
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|number| range.contains(number));
    if number.is_none() {
        return expected(&format!("an integer from {first} to {last}"), value, at, problems);
    }
    number
}

/// 1..=65535
pub(crate) fn port(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<u16> {
    port_in(value, at, problems, 1)
}

/// 0..=65535; 0 is the kernel's choice.
pub(crate) fn port_or_zero(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<u16> {
    port_in(value, at, problems, 0)
}

fn port_in(value: &Value, at: &Path<'_>, problems: &mut Problems, first: u16) -> Option<u16> {
    let port = value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|port| *port >= first);
    if port.is_none() {
        return expected(&format!("a port, {first} to 65535"), value, at, problems);
    }
    port
}

/// An IP address; IPv4-mapped ones become IPv4.
pub(crate) fn ip(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<IpAddr> {
    let address = text(value, at, problems)?;
    match address.parse::<IpAddr>() {
        Ok(address) => Some(address.to_canonical()),
        Err(_) => expected("an IP address", value, at, problems),
    }
}

/// The address of one host, not `0.0.0.0`.
pub(crate) fn host_ip(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<IpAddr> {
    let address = ip(value, at, problems)?;
    if address.is_unspecified() {
        return expected("the address of one host", value, at, problems);
    }
    Some(address)
}

pub(crate) fn duration(value: &Value, at: &Path<'_>, problems: &mut Problems, longest: Duration) -> Option<Duration> {
    let duration = match value {
        Value::Number(number) => number.as_u64().map(Duration::from_millis),
        Value::String(text) => duration::parse(text).ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    let Some(duration) = duration else {
        return expected("a duration (milliseconds, or 500ms, 60s, 2m, 1h)", value, at, problems);
    };
    if duration < TIMEOUT_MIN || duration > longest {
        let (shortest, longest) = (duration::format(TIMEOUT_MIN), duration::format(longest));
        return expected(&format!("a duration from {shortest} to {longest}"), value, at, problems);
    }
    Some(duration)
}

/// One of the words of a table.
pub(crate) fn one_of<T: Copy>(value: &Value, at: &Path<'_>, problems: &mut Problems, words: &[(&str, T)]) -> Option<T> {
    let names = || words.iter().map(|(word, _)| *word);
    let Value::String(text) = value else {
        return expected(&format!("one of {}", quoted_list(names())), value, at, problems);
    };
    if let Some((_, found)) = words.iter().find(|(word, _)| word == text) {
        return Some(*found);
    }
    let hint = did_you_mean(problems, text, names());
    problems.push(at, format!("{} is none of {}{hint}", quoted(text), quoted_list(names())));
    None
}

/// A path of the file system.
pub(crate) fn filename(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<String> {
    let filename = text(value, at, problems)?;
    let fault = if filename.is_empty() {
        "a filename cannot be empty"
    } else if filename.contains('\0') {
        "a filename cannot hold a NUL character"
    } else if filename.ends_with('/') {
        "the name of a directory, not of a socket"
    } else {
        return Some(filename.to_owned());
    };
    problems.push(at, fault);
    None
}

/// Permission bits as an octal string, `"0660"`. A number is refused: in JSON it would be decimal, and 660 is not 0660.
pub(crate) fn file_mode(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<u32> {
    let digits = value.as_str().map(|text| text.strip_prefix("0o").unwrap_or(text));
    let digits =
        digits.filter(|digits| (3..=4).contains(&digits.len()) && digits.bytes().all(|b| matches!(b, b'0'..=b'7')));
    match digits.and_then(|digits| u32::from_str_radix(digits, 8).ok()).filter(|mode| *mode <= 0o777) {
        Some(mode) => Some(mode),
        None => expected("permission bits as an octal string, such as \"0660\"", value, at, problems),
    }
}

/// The target of a request, origin form.
pub(crate) fn url_path(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<String> {
    let path = text(value, at, problems)?;
    if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic()) || path.contains('#') {
        return expected("a path that begins with / and holds no spaces", value, at, problems);
    }
    Some(path.to_owned())
}

/// The value of a `Host` header.
pub(crate) fn host_header(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<String> {
    let host = text(value, at, problems)?;
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+,;=".contains(&byte);
    if host.is_empty() || !host.bytes().all(legal) {
        return expected("a host, and a port perhaps", value, at, problems);
    }
    Some(host.to_owned())
}

/// RFC 9110 token.
pub(crate) fn token(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<String> {
    let token = text(value, at, problems)?;
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    {
        return expected("a token (letters, digits, !#$%&'*+-.^_`|~)", value, at, problems);
    }
    Some(token.to_owned())
}

/// A path into the metadata; slashes at its ends are optional.
pub(crate) fn metadata_path(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<String> {
    let path = reason(value, at, problems)?;
    if path.is_empty() || path.contains("//") {
        return expected("a path such as /labels/session_id", value, at, problems);
    }
    Some(path)
}
