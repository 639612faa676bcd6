//! Where the servers' jars and the JDK are, as `deploy/dev/install` says.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

const LARGE_HEAP_MB: usize = 1024;
const LARGE_HEAP: &[&str] = &[
    "-XX:+UseG1GC",
    "-XX:G1ReservePercent=25",
    "-XX:InitiatingHeapOccupancyPercent=30",
];

/// Jars of the servers and the `java` program that runs them.
#[derive(Clone, Debug)]
pub struct Jars {
    servers: PathBuf,
    java: PathBuf,
}

impl Jars {
    /// Finds the jars, and fetches them first where they are missing. Blocks: a fraction of a
    /// second when all is there, else as long as Maven needs.
    pub fn locate() -> Result<Self> {
        Self::install("--servers")
    }

    /// The same with the jars of an OpenSearch that has the security plugin.
    pub(crate) fn locate_with_security() -> Result<Self> {
        Self::install("--security")
    }

    fn install(what: &str) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("install");
        let output = Command::new(&script)
            .arg(what)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("cannot run {}", script.display()))?;
        if !output.status.success() {
            bail!(
                "{} {what} failed with {}, see its messages above",
                script.display(),
                output.status
            );
        }
        Self::parse(&String::from_utf8_lossy(&output.stdout))
    }

    fn parse(output: &str) -> Result<Self> {
        let value = |key: &str| {
            output
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .map(PathBuf::from)
                .with_context(|| {
                    format!("deploy/dev/install did not say {key}=…, it said: {output}")
                })
        };
        Ok(Self {
            servers: value("servers")?,
            java: value("java")?,
        })
    }

    /// The folder of a server's jars.
    pub(crate) fn folder(&self, server: &str) -> PathBuf {
        self.servers.join(server)
    }

    pub(crate) fn java(&self) -> &Path {
        &self.java
    }

    /// JVM arguments common to both servers, with the full JIT for throughput: a small heap is
    /// quick to start, a large one is collected as by OpenSearch's own `jvm.options`.
    pub(crate) fn jvm_arguments(&self, server: &str, heap_mb: usize, home: &Path) -> Vec<String> {
        let servers = self.servers.display();
        let collector: &[&str] = if heap_mb < LARGE_HEAP_MB {
            &["-XX:+UseSerialGC"]
        } else {
            LARGE_HEAP
        };
        let mut arguments: Vec<String> = collector
            .iter()
            .map(|&argument| argument.to_owned())
            .collect();
        arguments.extend([
            format!("-Xmx{heap_mb}m"),
            "-XX:+ExitOnOutOfMemoryError".into(),
            format!("-XX:SharedArchiveFile={servers}/{server}.jsa"),
            format!("-Dlog4j2.configurationFile={servers}/log4j2.properties"),
            format!("-Djava.io.tmpdir={}", home.join("tmp").display()),
            "-cp".into(),
            format!("{servers}/{server}/*"),
        ]);
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_install_prints() {
        let jars = Jars::parse("servers=/cache/servers/1\njava=/jdk/bin/java\n").unwrap();
        assert_eq!(jars.java(), Path::new("/jdk/bin/java"));
        let arguments = jars.jvm_arguments("kafka", 256, Path::new("/run/kafka-1"));
        assert!(arguments.contains(&"/cache/servers/1/kafka/*".to_owned()));
        assert!(
            Jars::parse("java=/jdk/bin/java")
                .unwrap_err()
                .to_string()
                .contains("servers=")
        );
    }
}
