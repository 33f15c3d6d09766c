//! The spellings of durations, sizes and shares: text and numbers in, checked values out. Refusals are sentences
//! without the field's name, which the caller puts before them.

use std::time::Duration;

use crate::spec::Share;

const DURATION_UNITS: [(&str, f64); 7] =
    [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("min", 60.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)];

const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

/// Reads `"5s"`, `"200ms"`, `"2m"`, `"1h"`, `"1.5s"`.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let scale = DURATION_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale);
    match (number.parse::<f64>(), scale) {
        (Ok(number), Some(scale)) => seconds(number * scale),
        (Ok(_), None) if unit.is_empty() => {
            Err(format!("'{text}' has no unit; write '{text}s' for seconds, or give it in ms, m or h"))
        }
        _ => {
            Err(format!("'{text}' is no duration; write one number and its unit: '5s', '200ms', '2m', '1h'"))
        }
    }
}

/// A duration from a number of seconds.
pub(super) fn seconds(seconds: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("{seconds} s is no length of time"))
}

/// Reads `"64KiB"`, `"1.5MiB"`, `"100kB"`, `"512"` into bytes.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let refusal = || format!("'{text}' is no size; write bytes as a number, or '64KiB', '512MiB', '1GiB'");
    let (number, unit) = split_unit(text);
    let unit = if unit.is_empty() { "B" } else { unit };
    let (_, scale) = SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(refusal)?;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(*scale).ok_or_else(refusal);
    }
    let bytes = number.parse::<f64>().map_err(|_| refusal())? * *scale as f64;
    whole_u64(bytes).ok_or_else(refusal)
}

/// Reads `"20%"`.
pub(super) fn parse_percent(text: &str) -> Result<Share, String> {
    let percent = text.strip_suffix('%').and_then(|number| number.trim_end().parse::<u8>().ok());
    match percent {
        Some(percent) if percent <= 100 => Ok(Share::Percent(percent)),
        _ => Err(format!(
            "'{text}' is no share; write '0%' to '100%' in whole percent, or a number of replicas"
        )),
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start_matches(' '))
}

/// A double that is a whole number a `u64` and a double both hold.
fn whole_u64(number: f64) -> Option<u64> {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
    #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and in range")]
    let whole = number as u64;
    (number.fract() == 0.0 && (0.0..=EXACT).contains(&number)).then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_one_number_and_one_unit() {
        for (text, millis) in
            [("5s", 5000), ("200ms", 200), ("2m", 120_000), ("1h", 3_600_000), ("1.5s", 1500)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in
            ["", "s", "5", "-5s", "5 parsecs", "1h30m", "1e3s", "infs", "nans", "99999999999999999999d"]
        {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert_eq!(
            parse_duration("5").unwrap_err(),
            "'5' has no unit; write '5s' for seconds, or give it in ms, m or h"
        );
    }

    #[test]
    fn sizes_are_whole_bytes() {
        for (text, bytes) in [("64KiB", 65_536), ("512", 512), ("1.5MiB", 1_572_864), ("2 GB", 2_000_000_000)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "KiB", "-1", "64KIB", "0.3B", "99999999999TiB", "1..2MiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn percentages_are_whole() {
        assert_eq!(parse_percent("20%"), Ok(Share::Percent(20)));
        for bad in ["101%", "-1%", "2.5%", "20", "%"] {
            assert!(parse_percent(bad).is_err(), "{bad}");
        }
    }
}
