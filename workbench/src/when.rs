//! Times and spans, as people write them and as they are shown.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Reads a time span with its unit.
pub fn span(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| format!("`{text}` is no time span: write one with its unit, such as `2h` or `1h 30m`"))
}

/// Reads a point in time.
pub fn instant(text: &str) -> Result<SystemTime, String> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map(SystemTime::from)
        .map_err(|_| format!("`{text}` is no time: write it as RFC 3339, such as `2026-03-01T12:00:00Z`"))
}

/// Reads a point in time, or how long ago it was.
pub fn ago(text: &str) -> Result<SystemTime, String> {
    let ago = humantime::parse_duration(text).ok().and_then(|span| SystemTime::now().checked_sub(span));
    ago.map_or_else(|| instant(text), Ok).map_err(|_| {
        format!(
            "`{text}` is neither a time (RFC 3339, such as `2026-03-01T12:00:00Z`) nor a span that is past (such as \
             `2h`)"
        )
    })
}

/// A point in time, to the second; RFC 3339.
pub fn shown(time: SystemTime) -> String {
    // One before 1970 cannot be written.
    humantime::format_rfc3339_seconds(time.max(SystemTime::UNIX_EPOCH)).to_string()
}

/// A point in time, to the millisecond; RFC 3339.
pub fn exact(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time.max(SystemTime::UNIX_EPOCH)).to_string()
}

/// A span, in its two largest units.
pub fn rough(span: Duration) -> String {
    let secs = span.as_secs();
    let (days, hours, minutes) = (secs / 86_400, secs / 3_600 % 24, secs / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{secs}s"),
        (0, 0, _) => format!("{minutes}m {}s", secs % 60),
        (0, ..) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_takes_a_time_or_a_span() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_772_366_400);
        assert_eq!(ago("2026-03-01T12:00:00Z"), Ok(time));
        assert_eq!(ago("2026-03-01T13:00:00+01:00"), Ok(time));
        assert!(ago("1h").unwrap() < SystemTime::now() - Duration::from_secs(3_599));
        assert!(ago("yesterday").unwrap_err().contains("`2h`"));
    }

    #[test]
    fn spans_are_short() {
        assert_eq!(rough(Duration::from_secs(59)), "59s");
        assert_eq!(rough(Duration::from_secs(3_599)), "59m 59s");
        assert_eq!(rough(Duration::from_secs(90_000)), "1d 1h");
    }
}
