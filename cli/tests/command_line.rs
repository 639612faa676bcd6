//! `shardline` as a user runs it, against a gateway that answers as it is told.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod stub;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use serde_json::{Value, json};
use stub::{BASE, Ran, Stub, User, statuses};

fn started() -> (Stub, User) {
    let stub = Stub::default();
    let user = User::new().with("SHARDLINE_URL", &stub.start());
    stub.answers(&format!("GET {BASE}_status"), 200, statuses(3));
    (stub, user)
}

#[test]
fn nothing_that_cannot_be_undone_is_done_unasked() {
    let (stub, user) = started();
    for command in [
        "stop logs",
        "autofollow delete r --leader-alias eu",
        "bulk stop logs-*",
        "bulk pause logs-* --exclude logs-1",
        "verify logs --repair",
    ] {
        let refused = user.runs(command);
        assert!(!refused.is_success, "{command}: {refused:?}");
        assert!(refused.stderr.contains("--yes"), "{command}: {refused:?}");
    }
    assert_eq!(stub.asked(), []);
    let stopped = user.runs("stop logs --yes");
    assert!(stopped.is_success, "{stopped:?}");
    let asked = stub.asked();
    assert_eq!(
        (asked.len(), asked[0].path.as_str()),
        (1, "/_plugins/_replication/logs/_stop")
    );
}

#[test]
fn a_dry_run_shows_the_request_and_sends_none() {
    let (stub, user) = started();
    let shown = user.runs("start copy --leader-alias eu --leader-index books --wait --dry-run");
    let url = &shown.stdout.lines().next().unwrap()["PUT ".len()..];
    assert!(
        url.ends_with("/_plugins/_replication/copy/_start"),
        "{shown:?}"
    );
    let body: Value = serde_json::from_str(shown.stdout.split_once('\n').unwrap().1).unwrap();
    assert_eq!(body, json!({"leader_alias": "eu", "leader_index": "books"}));
    let shown = user.runs("bulk stop logs-* --dry-run --output json");
    let sent: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(
        (&sent["method"], &sent["body"]),
        (&json!("POST"), &json!({"pattern": "logs-*"}))
    );
    assert_eq!(stub.asked(), []);
}

#[test]
fn answers_are_tables_json_or_yaml_and_never_coloured_in_a_pipe() {
    let (_stub, user) = started();
    let table = user.runs("status");
    assert!(
        table
            .stdout
            .ends_with("3 indices: 3 syncing; furthest behind: logs-002, 2.0 s\n")
    );
    let json: Value = serde_json::from_str(&user.runs("status -o json").stdout).unwrap();
    assert_eq!(json, statuses(3));
    assert_eq!(
        user.runs("status --json").stdout,
        user.runs("status --output json").stdout
    );
    let yaml = user.runs("status --output yaml");
    assert!(
        yaml.stdout.contains("  logs-000:\n    status: SYNCING\n"),
        "{yaml:?}"
    );
    assert!(yaml.stdout.contains("leader_checkpoint: 2\n"), "{yaml:?}");
    for printed in [table, yaml] {
        assert!(!printed.stdout.contains('\u{1b}'), "{printed:?}");
    }
    let sorted = user.runs("status --sort lag");
    assert!(
        sorted
            .stdout
            .lines()
            .nth(1)
            .unwrap()
            .starts_with("logs-002"),
        "{sorted:?}"
    );
    assert!(!user.runs("status --json --output yaml").is_success);
}

#[test]
fn the_innermost_cause_is_said_first() {
    let (stub, user) = started();
    let refusal = json!({"status": 500, "error": {
        "type": "connect_exception", "reason": "[][COZ] connect_exception", "caused_by": {
            "type": "io_exception", "reason": "no leader agent of the cluster answered within 10s",
        },
    }});
    stub.answers(&format!("POST {BASE}logs/_resume"), 500, refusal.clone());
    let refused = user.runs("resume logs");
    let expected = "error: no leader agent of the cluster answered within 10s (io_exception, \
                    status 500)\n  \
                    seen as: [][COZ] connect_exception (connect_exception)\n";
    assert_eq!(
        (refused.is_success, refused.stderr.as_str()),
        (false, expected)
    );
    let refused = user.runs("resume logs --output json");
    assert_eq!(
        serde_json::from_str::<Value>(&refused.stdout).unwrap(),
        refusal
    );
}

#[test]
fn contexts_are_set_listed_used_and_forgotten() {
    let stub = Stub::default();
    stub.answers(&format!("GET {BASE}_status"), 200, statuses(1));
    let (user, url) = (User::new(), stub.start());
    let password = user.file("password", "s3cret\n", 0o600);
    let token = user.file("token", "t0ken", 0o600);
    let ok = |words: &str| -> Ran {
        let ran = user.runs(words);
        assert!(ran.is_success, "{words}: {ran:?}");
        ran
    };
    ok(&format!(
        "context set prod --url {url} --user ops --password-file password"
    ));
    ok(&format!(
        "context set test --url {url} --token-file {}",
        token.display()
    ));
    let listed = ok("context list").stdout;
    let prod = listed.lines().nth(1).unwrap();
    assert!(prod.starts_with("*  prod"), "{listed}");
    assert!(
        prod.contains(&format!("ops, password in {}", password.display())),
        "{listed}"
    );
    ok("status");
    ok("--context test status");
    ok("context use test");
    ok("status");
    ok(&format!("--url {url} status"));
    let logins: Vec<Option<String>> = stub
        .asked()
        .into_iter()
        .map(|it| it.authorization)
        .collect();
    let (basic, bearer) = ("Basic b3BzOnMzY3JldA==", "Bearer t0ken");
    let expected = [Some(basic), Some(bearer), Some(bearer), None].map(|it| it.map(str::to_owned));
    assert_eq!(logins, expected);
    assert!(!user.runs("context delete test --dry-run").is_success);
    ok("context delete test");
    assert!(!user.runs("context use test").is_success);
    let file = std::fs::read_to_string(user.home.path().join(".config/shardline/contexts.toml"));
    let file = file.unwrap();
    assert!(
        !file.contains("s3cret") && !file.contains("t0ken"),
        "{file}"
    );
}

#[test]
fn a_password_is_in_no_argument_and_in_no_file_for_everybody() {
    let (stub, user) = started();
    let refused = user.runs("status --user ops:hunter2");
    assert!(
        !refused.is_success && !refused.stderr.contains("hunter2"),
        "{refused:?}"
    );
    let nobody = user.runs("status --user ops");
    assert!(nobody.stderr.contains("SHARDLINE_PASSWORD"), "{nobody:?}");
    user.file("password", "hunter2", 0o644);
    let open = user.runs("status --user ops --password-file password");
    assert!(open.stderr.contains("chmod 600"), "{open:?}");
    assert_eq!(stub.asked(), []);
    let user = user.with("SHARDLINE_PASSWORD", "s3cret");
    assert!(user.runs("status --user ops").is_success);
    assert_eq!(
        stub.asked()[0].authorization.as_deref(),
        Some("Basic b3BzOnMzY3JldA==")
    );
}

/// A process that ends with the test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn openssl(user: &User, words: &str) {
    let output = user
        .command("openssl")
        .args(words.split(' '))
        .output()
        .unwrap();
    assert!(output.status.success(), "openssl {words}: {output:?}");
}

#[test]
fn the_gateway_s_authority_is_checked_and_the_client_s_certificate_is_shown() {
    let user = User::new();
    let made = "req -x509 -newkey rsa:2048 -nodes -days 2 -addext subjectAltName=IP:127.0.0.1";
    for name in ["server", "client", "other"] {
        openssl(
            &user,
            &format!("{made} -subj /CN={name} -keyout {name}.key -out {name}.pem"),
        );
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let serve = format!(
        "s_server -www -accept 127.0.0.1:{port} -cert server.pem -key server.key -CAfile \
         client.pem -Verify 1 -verify_return_error"
    );
    let mut server = user.command("openssl");
    server.args(serve.split_whitespace()).stdin(Stdio::piped());
    let _server = Ends(
        server
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(
            Instant::now() < deadline,
            "openssl s_server does not listen"
        );
        std::thread::yield_now();
    }
    let status =
        |options: &str| user.runs(&format!("--url https://127.0.0.1:{port} {options} status"));
    let trusting = "--ca-certificate server.pem";
    let known = format!("{trusting} --client-certificate client.pem --client-key client.key");
    // A page is no answer of an agent; that it came is what counts.
    let answered = "was answered with something unexpected";
    let seen = status(&known);
    assert!(seen.stderr.contains(answered), "{seen:?}");
    for options in [
        "--client-certificate client.pem --client-key client.key",
        "--ca-certificate other.pem --client-certificate client.pem --client-key client.key",
        trusting,
        "--ca-certificate server.pem --client-certificate other.pem --client-key other.key",
        "--ca-certificate server.pem --client-certificate client.pem",
        "--ca-certificate server.key --client-certificate client.pem --client-key client.key",
    ] {
        let refused = status(options);
        assert!(
            !refused.is_success && !refused.stderr.contains(answered),
            "{options}: {refused:?}"
        );
    }
}

#[test]
fn a_bundle_holds_what_could_be_had_and_no_secret() {
    let (stub, user) = started();
    stub.answers("GET /metrics", 200, json!("shardline_up 1\n"));
    stub.answers("GET /ready", 503, json!("waiting for Kafka\n"));
    stub.answers(
        "GET /_cluster/health",
        403,
        json!({"error": {"type": "t", "reason": "no"}}),
    );
    user.file(
        "agent.toml",
        "[opensearch]\nurl = \"http://a\"\npassword = \"hunter2\"\n",
        0o600,
    );
    user.file("agent.log", &"line\n".repeat(1_000_000), 0o600);
    let admin = stub.start();
    let words =
        format!("debug bundle --file b.tar.gz --admin {admin} --config agent.toml --log agent.log");
    let made = user.runs(&words);
    assert!(made.is_success, "{made:?}");
    assert!(!user.runs(&words).is_success, "it is written over");
    let archive = File::open(user.home.path().join("b.tar.gz")).unwrap();
    let mut files = std::collections::BTreeMap::new();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(archive));
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        files.insert(entry.path().unwrap().display().to_string(), text);
    }
    let file = |name: &str| {
        files
            .get(&format!("shardline-debug/{name}"))
            .unwrap()
            .as_str()
    };
    let folder = admin.trim_start_matches("http://").replace(':', "-");
    assert_eq!(
        file(&format!("agents/{folder}/metrics.txt")),
        "shardline_up 1\n"
    );
    assert_eq!(
        file(&format!("agents/{folder}/ready.txt")),
        "waiting for Kafka\n"
    );
    assert_eq!(
        serde_json::from_str::<Value>(file("gateway/status.json")).unwrap(),
        statuses(3)
    );
    assert_eq!(file("log/0-agent.log").len(), 4 << 20);
    assert!(
        file("config/0-agent.toml").contains("[redacted]"),
        "{files:?}"
    );
    assert!(
        file("contents.txt").contains("cluster/health.json: missing: no"),
        "{}",
        file("contents.txt")
    );
    assert!(!files.values().any(|text| text.contains("hunter2")));
}

#[test]
fn completions_and_manual_pages_are_printed() {
    let user = User::new();
    assert!(
        user.runs("completions bash")
            .stdout
            .contains("complete -F _shardline")
    );
    assert!(user.runs("man").stdout.contains(".TH shardline 1"));
    assert!(user.runs("man --folder pages").is_success);
    assert!(
        user.home
            .path()
            .join("pages/shardline-debug-bundle.1")
            .exists()
    );
}

/// A terminal with a command in it, and what it shows.
struct Terminal {
    keyboard: File,
    child: Ends,
    shown: Arc<Mutex<vt100::Parser>>,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn runs(mut command: Command, rows: u16, columns: u16) -> Self {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size, None).unwrap();
        let side = || -> OwnedFd { pty.slave.try_clone().unwrap() };
        command.stdin(side()).stdout(side()).stderr(side());
        let child = Ends(command.spawn().unwrap());
        drop(command);
        drop(pty.slave);
        let keyboard = File::from(pty.master);
        let [height, width] = [rows, columns].map(|it| NonZero::new(it).unwrap());
        let shown = Arc::new(Mutex::new(vt100::Parser::new(height, width, 0)));
        let written = Arc::new(Mutex::new(Vec::new()));
        let (screen, all) = (Arc::clone(&shown), Arc::clone(&written));
        let mut output = keyboard.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The terminal is gone with the last who writes to it.
            while let Ok(length @ 1..) = output.read(&mut bytes) {
                screen.lock().unwrap().process(&bytes[..length]);
                all.lock().unwrap().extend_from_slice(&bytes[..length]);
            }
        });
        Self {
            keyboard,
            child,
            shown,
            written,
        }
    }

    fn presses(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the screen is as it should be.
    fn shows(&self, what: &str, is_right: impl Fn(&vt100::Screen) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let parser = self.shown.lock().unwrap();
            if is_right(parser.screen()) {
                return;
            }
            let text = parser.screen().contents();
            assert!(Instant::now() < deadline, "{what}:\n{text}");
            drop(parser);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for the command's end; whether it was content.
    fn ends(mut self) -> (bool, String) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.child.0.try_wait().unwrap() {
                let written = self.written.lock().unwrap().clone();
                return (status.success(), String::from_utf8(written).unwrap());
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// In a session of its own, so that the terminal is the one that is given, and not the developer's.
fn in_terminal(user: &User, words: &str, rows: u16, columns: u16) -> Terminal {
    let mut command = user.command("setsid");
    command.args(["--ctty", "--wait", env!("CARGO_BIN_EXE_shardline")]);
    command.args(words.split_whitespace());
    Terminal::runs(command, rows, columns)
}

fn row(screen: &vt100::Screen, at: usize) -> String {
    let columns = screen.size().1;
    screen.rows(0, columns.get()).nth(at).unwrap_or_default()
}

#[test]
fn watching_scrolls_sorts_filters_and_leaves_the_terminal_as_it_was() {
    let stub = Stub::default();
    stub.answers(&format!("GET {BASE}_status"), 200, statuses(100));
    let user = User::new().with("SHARDLINE_URL", &stub.start());
    let mut terminal = in_terminal(&user, "status --watch=0.2", 20, 80);
    terminal.shows("the first page", |screen| {
        screen.alternate_screen()
            && row(screen, 0).starts_with("100 indices: 100 syncing")
            && row(screen, 1).starts_with("INDEX")
            && row(screen, 2).starts_with("logs-000")
    });
    terminal.presses("\u{1b}[6~");
    terminal.shows("the second page, its header in place", |screen| {
        row(screen, 1).starts_with("INDEX") && row(screen, 2).starts_with("logs-017")
    });
    terminal.presses("s");
    terminal.shows("the furthest behind first", |screen| {
        row(screen, 2).starts_with("logs-099")
    });
    terminal.presses("/logs-04\r");
    terminal.shows("ten of them", |screen| {
        row(screen, 0).starts_with("10 indices") && row(screen, 2).starts_with("logs-049")
    });
    stub.answers(&format!("GET {BASE}_status"), 200, statuses(41));
    terminal.shows("what is new", |screen| {
        row(screen, 0).starts_with("1 index")
    });
    terminal.presses("q");
    terminal.shows("what was there before", |screen| !screen.alternate_screen());
    assert!(terminal.ends().0);
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let (_stub, user) = started();
    let (is_success, written) = in_terminal(&user, "status", 24, 80).ends();
    assert!(
        is_success && written.contains("\u{1b}[32mSYNCING\u{1b}[0m"),
        "{written:?}"
    );
    let user = user.with("NO_COLOR", "1");
    let (is_success, written) = in_terminal(&user, "status", 24, 80).ends();
    assert!(is_success && !written.contains('\u{1b}'), "{written:?}");
}

#[test]
fn on_a_terminal_somebody_is_asked() {
    let (stub, user) = started();
    let mut terminal = in_terminal(&user, "stop logs", 24, 80);
    terminal.shows("the question", |screen| screen.contents().contains("[y/N]"));
    terminal.presses("n\r");
    assert!(!terminal.ends().0);
    assert_eq!(stub.asked(), []);
    let mut terminal = in_terminal(&user, "stop logs", 24, 80);
    terminal.shows("the question", |screen| screen.contents().contains("[y/N]"));
    terminal.presses("y\r");
    let (is_success, written) = terminal.ends();
    assert!(
        is_success && written.contains("logs is no longer followed"),
        "{written}"
    );
    assert_eq!(stub.asked().len(), 1);
}
