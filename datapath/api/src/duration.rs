//! Durations as documents have them: integer milliseconds, or `500ms`, `60s`, `2m`, `1h`.

use std::time::Duration;

/// Why a text is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a duration: write milliseconds as a number, or 500ms, 60s, 2m, 1h")]
pub struct NotADuration;

/// Reads `500ms`, `60s`, `2m`, `1h` or, without a unit, milliseconds.
pub fn parse(text: &str) -> Result<Duration, NotADuration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit {
        "" | "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(NotADuration),
    };
    let number: u64 = number.parse().map_err(|_| NotADuration)?;
    number.checked_mul(factor).map(Duration::from_millis).ok_or(NotADuration)
}

/// Writes whole milliseconds in the largest unit that is exact: `60s` reads back as the same duration, and so
/// does `1500ms`. Minutes begin at two, hours at one. What is below a millisecond is cut.
pub fn format(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    match milliseconds {
        0 => "0ms".to_owned(),
        _ if milliseconds.is_multiple_of(3_600_000) => format!("{}h", milliseconds / 3_600_000),
        _ if milliseconds.is_multiple_of(60_000) && milliseconds > 60_000 => format!("{}m", milliseconds / 60_000),
        _ if milliseconds.is_multiple_of(1_000) => format!("{}s", milliseconds / 1_000),
        _ => format!("{milliseconds}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_and_writes() {
        let table = [
            ("500ms", 500, "500ms"),
            ("60s", 60_000, "60s"),
            ("2m", 120_000, "2m"),
            ("1h", 3_600_000, "1h"),
            ("90s", 90_000, "90s"),
            ("1500", 1_500, "1500ms"),
            ("0s", 0, "0ms"),
        ];
        for (text, milliseconds, canonical) in table {
            let duration = parse(text).unwrap();
            assert_eq!(duration, Duration::from_millis(milliseconds), "{text}");
            assert_eq!(format(duration), canonical);
            assert_eq!(parse(canonical), Ok(duration));
        }
    }

    #[test]
    fn rejects() {
        for text in [
            "",
            "s",
            "ms",
            "-1s",
            "1.5s",
            "1 s",
            "1d",
            "1S",
            "1h30m",
            "99999999999999999999ms",
            "18446744073709551615h",
        ] {
            assert_eq!(parse(text), Err(NotADuration), "{text}");
        }
    }
}
