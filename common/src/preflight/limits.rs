//! Limits that the system sets the agent.

use nix::sys::resource::{Resource, getrlimit};

use super::{Problem, Report};

/// Where Linux has its limits of inotify.
const INOTIFY: &str = "/proc/sys/fs/inotify";

/// Whether the agent may open so many files at once.
pub fn check_open_files(needed: u64, report: &mut Report) {
    let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    let found = if soft >= needed {
        Ok(format!("{soft} (at least {needed} are needed)"))
    } else {
        let mend = format!("LimitNOFILE={needed} in the unit, or `ulimit -n {needed}` before");
        Err(Problem::new(
            format!("{soft} may be open, {needed} are needed"),
            mend,
        ))
    };
    report.add("open files", found);
}

/// Whether so many folders can be watched.
pub fn check_inotify(needed: u64, report: &mut Report) {
    for (limit, needed) in [("max_user_watches", needed), ("max_user_instances", 1)] {
        let read = std::fs::read_to_string(format!("{INOTIFY}/{limit}"));
        let Some(allowed) = read.ok().and_then(|text| text.trim().parse::<u64>().ok()) else {
            continue;
        };
        let found = if allowed >= needed {
            Ok(format!("{allowed} (at least {needed} are needed)"))
        } else {
            let mend = format!("sysctl fs.inotify.{limit}={}", needed.saturating_mul(2));
            Err(Problem::new(
                format!("{allowed}, and {needed} are needed"),
                mend,
            ))
        };
        report.add(format!("fs.inotify.{limit}"), found);
    }
}
