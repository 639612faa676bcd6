//! The micro-benchmarks' results, as `cargo bench` (criterion) left them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::report::Section;
use crate::samples::grouped;

/// `None` when there are none.
pub fn read(criterion: &Path) -> Result<Option<Section>> {
    let Ok(groups) = fs::read_dir(criterion) else {
        return Ok(None);
    };
    let mut rows = Vec::new();
    let mut section = Section::new(
        "Micro-benchmarks",
        "One core, by criterion: its estimate of the mean with the bounds of its 95% confidence interval, and the throughput
        in bytes or elements where it has one.",
    );
    let mut folders: Vec<_> = groups
        .filter_map(|group| Some(group.ok()?.path()))
        .collect();
    folders.sort();
    for group in folders {
        let Ok(functions) = fs::read_dir(&group) else {
            continue;
        };
        let mut functions: Vec<_> = functions
            .filter_map(|function| Some(function.ok()?.path().join("new")))
            .collect();
        functions.sort();
        for results in functions
            .iter()
            .filter(|results| results.join("estimates.json").is_file())
        {
            let (benchmark, estimates) = (
                json(&results.join("benchmark.json"))?,
                json(&results.join("estimates.json"))?,
            );
            let name = benchmark["full_id"]
                .as_str()
                .context("no full_id")?
                .to_owned();
            let mean = |field: &str| {
                estimates
                    .pointer(&format!("/mean/{field}"))
                    .and_then(Value::as_f64)
            };
            let nanoseconds = mean("point_estimate").context("no mean")?;
            let bounds = [
                "confidence_interval/lower_bound",
                "confidence_interval/upper_bound",
            ];
            let [low, high] = bounds.map(|bound| mean(bound).unwrap_or(nanoseconds) / 1000.0);
            let throughput = match (
                benchmark["throughput"]["Bytes"].as_f64(),
                benchmark["throughput"]["Elements"].as_f64(),
            ) {
                (Some(bytes), _) => format!("{} MB/s", grouped(bytes / nanoseconds * 1000.0, 0)),
                (_, Some(elements)) => format!("{}/s", grouped(elements / nanoseconds * 1e9, 0)),
                _ => "–".to_owned(),
            };
            if name == "translog/decode 300-byte documents" {
                let bytes = benchmark["throughput"]["Bytes"]
                    .as_f64()
                    .context("no throughput")?;
                section.at_least(
                    "translog decoding, 300-byte documents, one core",
                    500.0,
                    bytes / nanoseconds * 1000.0,
                    " MB/s",
                );
            }
            rows.push(vec![
                name,
                format!("{:.1} µs ({low:.1}–{high:.1})", nanoseconds / 1000.0),
                throughput,
            ]);
        }
    }
    section.table(&["", "time", "throughput"], rows);
    Ok((!section.tables[0].rows.is_empty()).then_some(section))
}

fn json(path: &Path) -> Result<Value> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("cannot understand {}", path.display()))
}
