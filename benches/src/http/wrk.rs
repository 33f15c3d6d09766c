//! wrk, run and read.

use std::process::Command;

use super::servers::Folder;

/// What wrk does not tell by itself. Nothing of it runs for a request.
const TELL_P999: &str = "done = function(summary, latency, requests)\n\
    io.write(string.format(\"p999 %dus\\n\", latency:percentile(99.9)))\nend\n";

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Requests.
    pub per_second: f64,
    /// Half of them took no longer.
    pub p50_us: f64,
    /// 99 %.
    pub p99_us: f64,
    /// 99.9 %.
    pub p999_us: f64,
    /// Of all processes of the server, per request; not known here.
    pub cpu_us: f64,
    /// Of sockets, and answers of other statuses than 2xx and 3xx.
    pub errors: u64,
}

/// One thread of it, with what `script` says about the requests (in Lua, as wrk has it).
///
/// # Errors
/// It can't be started, or says nothing.
pub fn wrk(
    folder: &Folder,
    url: &str,
    script: &str,
    connections: u32,
    seconds: u32,
) -> Result<Sample, String> {
    let script = folder.write("wrk.lua", format!("{script}\n{TELL_P999}"))?;
    let output = Command::new("wrk")
        .args(["-t1", "--latency", &format!("-c{connections}"), &format!("-d{seconds}s"), "-s"])
        .arg(script)
        .arg(url)
        .output()
        .map_err(|error| format!("can't start wrk: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = |name: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(name))?;
        line.split_whitespace().last().map(str::to_owned)
    };
    let errors = |line: &str| -> u64 {
        line.split(|c: char| !c.is_ascii_digit()).filter_map(|it| it.parse::<u64>().ok()).sum()
    };
    // The words `Non-2xx or 3xx responses:` have digits of their own.
    let failed = text.lines().filter(|line| line.contains("Non-2xx") || line.contains("Socket errors"));
    Ok(Sample {
        per_second: value("Requests/sec:").and_then(|it| it.parse().ok()).ok_or("wrk gave no rate")?,
        p50_us: value("50%").and_then(|it| micros(&it)).unwrap_or(f64::NAN),
        p99_us: value("99%").and_then(|it| micros(&it)).unwrap_or(f64::NAN),
        p999_us: value("p999").and_then(|it| micros(&it)).unwrap_or(f64::NAN),
        cpu_us: f64::NAN,
        errors: failed.filter_map(|line| line.split_once(':')).map(|(_, counts)| errors(counts)).sum(),
    })
}

/// wrk writes `93.00us`, `1.20ms`, `2.00s`.
fn micros(text: &str) -> Option<f64> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let number: f64 = text[..unit].parse().ok()?;
    match &text[unit..] {
        "us" => Some(number),
        "ms" => Some(number * 1_000.0),
        "s" => Some(number * 1_000_000.0),
        _ => None,
    }
}
