//! `--check-config`: mistakes in the configuration, on this machine and on real servers, each of
//! which has to be named; and correct configuration, of which nothing is said but `ok`.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::json;
use shardline_dev::{AgentConfig, BasePorts, Ports};
use shardline_tests::check::certificates::{Authority, Identity};
use shardline_tests::check::front::{self, Front, Guard};
use shardline_tests::check::run::{Check, Settings};
use shardline_tests::world::World;

const SECRET: &str = "hunter2-271828";

/// Configuration of a leader agent that nobody else disturbs.
fn leader(opensearch: &str, kafka: &str) -> Settings {
    Settings::default()
        .text("opensearch.url", opensearch)
        .text("kafka.bootstrap_servers", kafka)
        .set("kafka.replication_factor", 1)
        .text("admin.listen", "127.0.0.1:0")
        .set("capture.spool_limit_mib", 16)
}

fn follower(opensearch: &str, kafka: &str, data: &Path) -> Settings {
    Settings::default()
        .text("opensearch.url", opensearch)
        .text("kafka.bootstrap_servers", kafka)
        .set("kafka.replication_factor", 1)
        .text("admin.listen", "127.0.0.1:0")
        .text("gateway.listen", "127.0.0.1:0")
        .text("storage.data_dir", data.display().to_string())
}

/// A mistake, and the texts that name it.
type Mistake = (Settings, &'static [&'static str]);

/// Where configuration is checked without a network.
struct Offline(tempfile::TempDir);

impl Offline {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("empty"), "")?;
        std::fs::write(folder.path().join("no-pem"), SECRET)?;
        Ok(Self(folder))
    }

    fn at(&self) -> &Path {
        self.0.path()
    }

    fn file(&self, name: &str) -> String {
        self.at().join(name).display().to_string()
    }

    fn leader(&self) -> Settings {
        leader("http://127.0.0.1:9200", "127.0.0.1:9092")
    }

    fn follower(&self) -> Settings {
        let data = self.at().join("data");
        follower("http://127.0.0.1:9200", "127.0.0.1:9092", &data)
    }

    fn user(&self) -> Settings {
        self.leader().text("opensearch.username", "agent")
    }

    fn url(&self, url: &str) -> Settings {
        self.leader().text("opensearch.url", url)
    }

    fn of_opensearch(&self) -> Vec<Mistake> {
        let ca = |name| {
            self.leader()
                .text("opensearch.ca_certificate", self.file(name))
        };
        let password_file = |name| {
            self.user()
                .text("opensearch.password_file", self.file(name))
        };
        vec![
            (self.url("http://"), &["opensearch.url"]),
            (
                self.url(&format!("https://user:{SECRET}@node-1:9200")),
                &["opensearch.url", "without a user"],
            ),
            (ca("nowhere"), &["opensearch.ca_certificate", "nowhere"]),
            (
                ca("no-pem"),
                &["opensearch.ca_certificate", "no certificates"],
            ),
            (
                password_file("nowhere"),
                &["opensearch.password_file", "nowhere"],
            ),
            (
                password_file("empty"),
                &["opensearch.password_file", "empty"],
            ),
            (
                password_file("empty").text("opensearch.password", SECRET),
                &[
                    "opensearch.password",
                    "opensearch.password_file",
                    "only one",
                ],
            ),
            (
                self.leader().set("opensearch.password", 271828),
                &["opensearch.password"],
            ),
        ]
    }

    fn of_kafka(&self) -> Vec<Mistake> {
        let properties = |all: &str| self.leader().set("kafka.properties", all);
        let property = |name: &str| properties(&format!("{{\"{name}\" = \"{SECRET}\"}}"));
        let file = format!("{{\"sasl.password\" = \"{}\"}}", self.file("no"));
        vec![
            (self.leader().set("kafka.bootstrap", 1), &["bootstrap"]),
            (
                self.leader().text("kafka.bootstrap_servers", "nonsense"),
                &["kafka.bootstrap_servers", "host:port"],
            ),
            (
                property("sasl.pasword"),
                &["sasl.pasword", "no property that librdkafka knows"],
            ),
            (
                property("security.protocol"),
                &["security.protocol", "does not take"],
            ),
            (
                properties(
                    "{\"security.protocol\" = \"SASL_SSL\", \"sasl.mechanism\" = \"GSSAPI\"}",
                ),
                &["GSSAPI"],
            ),
            (
                self.leader().set("kafka.properties_files", file),
                &["kafka.properties_files"],
            ),
        ]
    }

    fn of_agents(&self) -> Vec<Mistake> {
        let advertise = |url: &str| self.follower().text("gateway.advertise", url);
        vec![
            (
                self.follower().text("storage.data_dir", self.file("empty")),
                &["storage.data_dir", "no folder"],
            ),
            (
                self.leader().set(
                    "capture.data_paths",
                    format!("[\"{}\"]", self.at().display()),
                ),
                &["capture.data_paths", "no data folder of a node"],
            ),
            (
                self.follower()
                    .text("admin.listen", "127.0.0.1:9602")
                    .text("gateway.listen", "0.0.0.0:9602"),
                &["admin.listen", "gateway.listen", "same address"],
            ),
            (
                advertise(&format!("http://user:{SECRET}@agent-1:9200")),
                &["gateway.advertise"],
            ),
            (advertise("http://"), &["gateway.advertise"]),
            (self.leader().text("log.filter", "info,=,"), &["log.filter"]),
            (
                self.leader().text("capture.source", SECRET),
                &["capture.source", "translog, poll"],
            ),
        ]
    }
}

/// The agent that settings are of.
fn agent_of(settings: &Settings) -> &'static str {
    if settings.has("storage") {
        "follower-agent"
    } else {
        "leader-agent"
    }
}

#[test]
fn what_needs_no_network_is_named() -> Result<()> {
    let offline = Offline::new()?;
    let mistakes = [
        offline.of_opensearch(),
        offline.of_kafka(),
        offline.of_agents(),
    ];
    for (settings, named) in mistakes.concat() {
        Check::local(agent_of(&settings), settings)
            .run(offline.at())?
            .names(named, Some(SECRET))?;
    }
    let broken = offline.at().join("broken.toml");
    std::fs::write(&broken, format!("[opensearch]\npassword = \"{SECRET}\n"))?;
    Check::local("leader-agent", Settings::default())
        .run_file(&broken)?
        .names(&["no TOML from line 2"], Some(SECRET))?;
    Check::local("follower-agent", offline.follower())
        .run(offline.at())?
        .is_all_ok()
}

#[test]
fn variables_are_what_their_keys_want() -> Result<()> {
    let offline = Offline::new()?;
    for (variable, value, named) in [
        ("SHARDLINE_LOG", "jsno", "SHARDLINE_LOG"),
        ("RUST_LOG", "info,=,", "RUST_LOG"),
        (
            "SHARDLINE_KAFKA__REPLICATION_FACTOR",
            SECRET,
            "SHARDLINE_KAFKA__REPLICATION_FACTOR",
        ),
        ("SHARDLINE_CAPTURE__ALWAIS", SECRET, "alwais"),
    ] {
        let mut check = Check::local("leader-agent", offline.leader());
        check.environment.push((variable, value.to_owned()));
        check.run(offline.at())?.names(&[named], Some(SECRET))?;
    }
    let mut check = Check::local("leader-agent", offline.leader());
    check.environment = [
        ("SHARDLINE_OPENSEARCH__USERNAME", "agent"),
        ("SHARDLINE_OPENSEARCH__PASSWORD", "271828"),
        ("SHARDLINE_KAFKA__PROPERTIES__SASL.PASSWORD", "true"),
        ("SHARDLINE_KAFKA__PROPERTIES__SASL_USERNAME", "1e5"),
        ("SHARDLINE_KAFKA__RETENTION_HOURS", "24"),
        ("SHARDLINE_CAPTURE__ALWAYS", "a-*,b"),
    ]
    .map(|(variable, value)| (variable, value.to_owned()))
    .to_vec();
    check.run(offline.at())?.is_all_ok()
}

#[test]
fn the_sample_files_are_valid() -> Result<()> {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config");
    // What the files name has to be there.
    let folder = tempfile::tempdir()?;
    let at = folder.path().display().to_string();
    let authority = Authority::new("samples")?.pem()?;
    for file in ["opensearch-ca.pem", "kafka-ca.pem"] {
        std::fs::write(folder.path().join(file), &authority)?;
    }
    for file in [
        "leader-agent.password",
        "follower-agent.password",
        "kafka-password",
    ] {
        std::fs::write(folder.path().join(file), "secret\n")?;
    }
    let mut seen = 0;
    for topology in std::fs::read_dir(&samples)? {
        let topology = topology?.path();
        if !topology.is_dir() {
            continue;
        }
        for agent in ["leader-agent", "follower-agent"] {
            let sample = topology.join(format!("{agent}.toml"));
            let text =
                std::fs::read_to_string(&sample).with_context(|| sample.display().to_string())?;
            ensure!(text.matches("# EDIT").count() <= 3, "{}", sample.display());
            let text = text
                .replace("/etc/shardline", &at)
                .replace("/var/lib/shardline", &at);
            let file = folder.path().join("config.toml");
            std::fs::write(&file, text)?;
            let mut check = Check::local(agent, Settings::default());
            check
                .environment
                .push(("CREDENTIALS_DIRECTORY", at.clone()));
            check
                .run_file(&file)?
                .is_all_ok()
                .with_context(|| sample.display().to_string())?;
            seen += 1;
        }
    }
    ensure!(seen == 8, "{seen} samples");
    Ok(())
}

/// Free ports in a row, below those that the kernel gives to outgoing connections.
fn ports_in_a_row(count: u16) -> Result<u16> {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let start = 12_000 + u16::try_from(std::process::id() % 15_000)?;
    (0..200)
        .map(|step| start + step * 20)
        .find(|base| (0..count).all(|step| is_free(base + step)))
        .context("no free ports")
}

/// The listeners of the broker beside the plain one.
struct Listeners {
    plain: String,
    sasl: String,
    ssl: String,
}

struct Planted {
    world: World,
    listeners: Listeners,
    folder: tempfile::TempDir,
    authority: Authority,
}

fn kafka_overrides(base: u16, keystore: &Path) -> Vec<(String, String)> {
    let (client, controller, sasl, ssl) = (base + 4, base + 5, base + 9, base + 10);
    let login = format!(
        "org.apache.kafka.common.security.plain.PlainLoginModule required \
         user_agent=\"{SECRET}\" user_stranger=\"{SECRET}\";"
    );
    [
        (
            "listeners",
            format!(
                "PLAINTEXT://127.0.0.1:{client},SASL_PLAINTEXT://127.0.0.1:{sasl},\
                 SSL://127.0.0.1:{ssl},CONTROLLER://127.0.0.1:{controller}"
            ),
        ),
        (
            "listener.security.protocol.map",
            "PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL,CONTROLLER:PLAINTEXT".into(),
        ),
        ("sasl.enabled.mechanisms", "PLAIN".into()),
        ("listener.name.sasl_plaintext.plain.sasl.jaas.config", login),
        ("ssl.keystore.type", "PEM".into()),
        ("ssl.keystore.location", keystore.display().to_string()),
        (
            "authorizer.class.name",
            "org.apache.kafka.metadata.authorizer.StandardAuthorizer".into(),
        ),
        ("super.users", "User:ANONYMOUS;User:agent".into()),
        ("allow.everyone.if.no.acl.found", "false".into()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .to_vec()
}

impl Planted {
    async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let authority = Authority::new("the right one")?;
        let Identity { certificate, key } = authority.sign(None, 30)?;
        let keystore = folder.path().join("kafka.pem");
        std::fs::write(&keystore, [key, certificate].concat())?;
        std::fs::write(folder.path().join("ca.pem"), authority.pem()?)?;
        // A bundle whose first certificate is not the one that signed.
        let other = Authority::new("another one")?.pem()?;
        std::fs::write(folder.path().join("wrong-ca.pem"), &other)?;
        let bundle = [other, authority.pem()?].concat();
        std::fs::write(folder.path().join("bundle.pem"), bundle)?;
        let base = ports_in_a_row(12)?;
        let world = World::with(|options| {
            options.ports = Ports::Fixed(BasePorts {
                leader_http: base,
                leader_transport: base + 1,
                follower_http: base + 2,
                follower_transport: base + 3,
                kafka: base + 4,
                kafka_controller: base + 5,
                leader_agent: base + 6,
                follower_agent: base + 7,
                gateway: base + 8,
            });
            options.kafka_overrides = kafka_overrides(base, &keystore);
            options.leader_agent_config =
                AgentConfig::default().set("capture", "always", "[\"books\"]");
        })
        .await?;
        let at = |port: u16| format!("127.0.0.1:{port}");
        Ok(Self {
            listeners: Listeners {
                plain: world.stack.kafka_bootstrap().to_owned(),
                sasl: at(base + 9),
                ssl: at(base + 10),
            },
            world,
            folder,
            authority,
        })
    }

    fn at(&self) -> &Path {
        self.folder.path()
    }

    fn file(&self, name: &str) -> String {
        self.at().join(name).display().to_string()
    }

    fn leader(&self) -> Settings {
        leader(&self.world.stack.leader_url(), &self.listeners.plain)
    }

    fn follower(&self) -> Settings {
        let data = self.at().join("data");
        follower(
            &self.world.stack.follower_url(),
            &self.listeners.plain,
            &data,
        )
    }

    fn leader_at(&self, url: impl AsRef<str>) -> Settings {
        self.leader().text("opensearch.url", url)
    }

    fn named(&self, settings: Settings, named: &[&str]) -> Result<()> {
        Check::connect(agent_of(&settings), settings)
            .run(self.at())?
            .names(named, Some(SECRET))
    }

    fn leader_port(&self) -> u16 {
        self.world.stack.ports().leader[0].http
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        Ok(ClientConfig::new()
            .set("bootstrap.servers", &self.listeners.plain)
            .create()?)
    }

    async fn make_topic(&self, name: &str, partitions: i32, policy: &str) -> Result<()> {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1))
            .set("cleanup.policy", policy)
            .set("max.message.bytes", "104857600");
        let made = self
            .admin()?
            .create_topics([&topic], &AdminOptions::new())
            .await?;
        for made in made {
            made.map_err(|(topic, code)| anyhow::anyhow!("{topic}: {code}"))?;
        }
        Ok(())
    }

    fn topics(&self) -> Result<BTreeSet<String>> {
        let asking: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.listeners.plain)
            .create()?;
        let metadata = asking.fetch_metadata(None, Duration::from_secs(20))?;
        Ok(metadata
            .topics()
            .iter()
            .map(|topic| topic.name().to_owned())
            .collect())
    }

    fn data_folder(&self, node: &str) -> Result<PathBuf> {
        Ok(self.world.stack.process(node)?.data_dir().to_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_on_real_servers_are_named() -> Result<()> {
    let planted = Planted::start().await?;
    let world = &planted.world;
    world.leader.ok("PUT", "/books", Some(&json!({}))).await?;
    world.follow("books", "books-copy").await?;
    all_is_well(&planted).await?;
    the_way_to_opensearch(&planted).await?;
    clusters_that_are_none(&planted).await?;
    the_login(&planted).await?;
    permissions(&planted).await?;
    the_way_to_kafka(&planted)?;
    topics(&planted).await?;
    this_machine(&planted).await?;
    planted.world.stop().await
}

/// Nothing is wrong, and nothing is left behind.
async fn all_is_well(planted: &Planted) -> Result<()> {
    let leader_data = planted.data_folder("leader-1")?;
    let listed = |folder: &Path| -> Result<BTreeSet<_>> {
        Ok(std::fs::read_dir(folder)?
            .flatten()
            .map(|entry| entry.file_name())
            .collect())
    };
    let before = (planted.topics()?, listed(&leader_data)?);
    Check::connect("leader-agent", planted.leader())
        .run(planted.at())?
        .is_all_ok()?;
    Check::connect("follower-agent", planted.follower())
        .run(planted.at())?
        .is_all_ok()?;
    let sasl = planted
        .leader()
        .text("kafka.bootstrap_servers", &planted.listeners.sasl)
        .set(
            "kafka.properties",
            "{\"security.protocol\" = \"SASL_PLAINTEXT\", \"sasl.mechanism\" = \"PLAIN\", \
         \"sasl.username\" = \"agent\"}",
        );
    std::fs::write(planted.at().join("kafka-password"), format!("{SECRET}\n"))?;
    let file = format!(
        "{{\"sasl.password\" = \"{}\"}}",
        planted.file("kafka-password")
    );
    let sasl = sasl.set("kafka.properties_files", file);
    Check::connect("leader-agent", sasl)
        .run(planted.at())?
        .is_all_ok()?;
    let front = front::tls(&planted.authority.sign(None, 30)?, planted.leader_port()).await?;
    let tls = planted
        .leader_at(format!("https://127.0.0.1:{}", front.port))
        .text("opensearch.ca_certificate", planted.file("bundle.pem"));
    Check::connect("leader-agent", tls)
        .run(planted.at())?
        .is_all_ok()?;
    ensure!(
        before == (planted.topics()?, listed(&leader_data)?),
        "something was left behind"
    );
    ensure!(
        !planted.at().join("data").exists(),
        "the data folder was made"
    );
    Ok(())
}

async fn the_way_to_opensearch(planted: &Planted) -> Result<()> {
    let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let url = |front: &Front, scheme: &str| format!("{scheme}://127.0.0.1:{}", front.port);
    planted.named(
        planted.leader_at(format!("http://127.0.0.1:{nobody}")),
        &["OpenSearch", "refused", "opensearch.url"],
    )?;
    let https = format!("https://127.0.0.1:{}", planted.leader_port());
    let http = planted.world.stack.leader_url();
    planted.named(planted.leader_at(https), &["it speaks http", &http])?;
    let right = front::tls(&planted.authority.sign(None, 30)?, planted.leader_port()).await?;
    planted.named(
        planted.leader_at(url(&right, "http")),
        &["it speaks https", &url(&right, "https")],
    )?;
    let with_ca = |front: &Front, file: &str| {
        planted
            .leader_at(url(front, "https"))
            .text("opensearch.ca_certificate", planted.file(file))
    };
    planted.named(
        with_ca(&right, "wrong-ca.pem"),
        &["not trusted", "opensearch.ca_certificate"],
    )?;
    let expired = front::tls(&planted.authority.sign(None, -1)?, planted.leader_port()).await?;
    planted.named(with_ca(&expired, "ca.pem"), &["expired", "not valid now"])?;
    let other = planted.authority.sign(Some("other.example.org"), 30)?;
    let other = front::tls(&other, planted.leader_port()).await?;
    planted.named(with_ca(&other, "ca.pem"), &["for another name"])
}

async fn clusters_that_are_none(planted: &Planted) -> Result<()> {
    let real = planted.world.stack.leader_url();
    let version = |number: &str, distribution: Option<&str>| {
        json!({"cluster_name": "leader", "cluster_uuid": "dQKUxRoPRautn9Nz55Y3bg",
               "version": {"number": number, "distribution": distribution}})
    };
    for (number, distribution, named) in [
        ("8.15.0", None, "Elasticsearch 8.15.0"),
        ("1.3.20", Some("opensearch"), "OpenSearch 1.3.20 is too old"),
        (
            "7.10.2",
            Some("opensearch"),
            "override_main_response_version",
        ),
    ] {
        let guard = Guard {
            version: Some(version(number, distribution)),
            ..Guard::default()
        };
        let front = front::guarded(guard, &real).await?;
        let url = format!("http://127.0.0.1:{}", front.port);
        planted.named(planted.leader_at(url), &["version", named])?;
    }
    let an_hour_ago = SystemTime::now() - Duration::from_secs(3700);
    let guard = Guard {
        date: Some(httpdate::fmt_http_date(an_hour_ago)),
        ..Guard::default()
    };
    let front = front::guarded(guard, &real).await?;
    let url = format!("http://127.0.0.1:{}", front.port);
    planted.named(planted.leader_at(url), &["clock", "ahead of", "NTP"])
}

/// A proxy before a cluster with users, that lacks a right where it is told to.
async fn guarded(url: &str, missing: &[(&'static str, &'static str)]) -> Result<Front> {
    let guard = Guard {
        login: Some(("agent", SECRET)),
        missing: missing.to_vec(),
        ..Guard::default()
    };
    front::guarded(guard, url).await
}

fn at(front: &Front) -> String {
    format!("http://127.0.0.1:{}", front.port)
}

fn as_agent(planted: &Planted, settings: Settings) -> Settings {
    settings
        .text("opensearch.username", "agent")
        .text("opensearch.password_file", planted.file("password"))
}

async fn the_login(planted: &Planted) -> Result<()> {
    std::fs::write(planted.file("password"), SECRET)?;
    let open = guarded(&planted.world.stack.leader_url(), &[]).await?;
    Check::connect(
        "leader-agent",
        as_agent(planted, planted.leader_at(at(&open))),
    )
    .run(planted.at())?
    .is_all_ok()?;
    planted.named(
        planted.leader_at(at(&open)),
        &["login", "opensearch.username"],
    )?;
    let wrong = planted
        .leader_at(at(&open))
        .text("opensearch.username", "agent")
        .text("opensearch.password", "wrong");
    planted.named(wrong, &["login", "agent", "401"])
}

async fn permissions(planted: &Planted) -> Result<()> {
    let (leader, follower) = (
        planted.world.stack.leader_url(),
        planted.world.stack.follower_url(),
    );
    for (path, right, named) in [
        (
            "/books/_stats",
            "indices:monitor/stats",
            "permissions on books",
        ),
        (
            "/_nodes/_local",
            "cluster:monitor/nodes/info",
            "cluster permissions",
        ),
        (
            "/books/_search/point_in_time",
            "indices:data/read/point_in_time/create",
            "books",
        ),
    ] {
        let front = guarded(&leader, &[(path, right)]).await?;
        let settings = as_agent(planted, planted.leader_at(at(&front)));
        planted.named(settings, &[named, right])?;
    }
    let follower_at = |front: &Front| {
        let settings = planted.follower().text("opensearch.url", at(front));
        as_agent(planted, settings)
    };
    for missing in [
        ("/_alias/*", "indices:admin/aliases/get"),
        ("/books-copy/_mapping", "indices:admin/mapping/put"),
        ("/_bulk", "indices:data/write/bulk"),
        ("/books-copy/_stats", "indices:monitor/stats"),
    ] {
        let front = guarded(&follower, &[missing]).await?;
        planted.named(follower_at(&front), &["missing", missing.1])?;
    }
    let front = guarded(&follower, &[("/new-copy", "indices:admin/delete")]).await?;
    let mut check = Check::connect("follower-agent", follower_at(&front));
    check.arguments = vec!["--check-index", "new-copy"];
    check
        .run(planted.at())?
        .names(&["new-copy", "indices:admin/delete"], Some(SECRET))
}

fn the_way_to_kafka(planted: &Planted) -> Result<()> {
    let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let Listeners { sasl, ssl, .. } = &planted.listeners;
    let at = |servers: &str| planted.leader().text("kafka.bootstrap_servers", servers);
    let login = |user: &str, password: &str| {
        let properties = format!(
            "{{\"security.protocol\" = \"SASL_PLAINTEXT\", \"sasl.mechanism\" = \"PLAIN\", \
             \"sasl.username\" = \"{user}\", \"sasl.password\" = \"{password}\"}}"
        );
        at(sasl).set("kafka.properties", properties)
    };
    let tls = |file: &str| {
        let properties = format!(
            "{{\"security.protocol\" = \"SSL\", \"ssl.ca.location\" = \"{}\"}}",
            planted.file(file)
        );
        at(ssl).set("kafka.properties", properties)
    };
    planted.named(at(&format!("127.0.0.1:{nobody}")), &["Kafka", "refused"])?;
    planted.named(
        login("agent", "wrong"),
        &["Kafka", "sasl.password", "Authentication"],
    )?;
    planted.named(at(sasl), &["Kafka", "security.protocol"])?;
    planted.named(at(ssl), &["Kafka", "security.protocol"])?;
    planted.named(tls("wrong-ca.pem"), &["Kafka", "ssl.ca.location"])?;
    Check::connect("leader-agent", tls("ca.pem"))
        .run(planted.at())?
        .is_all_ok()?;
    planted.named(
        login("stranger", SECRET),
        &["may not make it", "kafka-acls", "stranger"],
    )?;
    planted.named(
        planted.leader().set("kafka.replication_factor", 3),
        &["brokers", "kafka.replication_factor = 1"],
    )
}

async fn topics(planted: &Planted) -> Result<()> {
    let under = |prefix: &str| planted.leader().text("kafka.topic_prefix", prefix);
    planted
        .make_topic("dropping.control.leader", 1, "delete")
        .await?;
    planted.named(
        under("dropping"),
        &[
            "dropping.control.leader",
            "cleanup.policy=delete",
            "--add-config cleanup.policy=compact",
        ],
    )?;
    planted
        .make_topic("wide.control.follower", 3, "compact")
        .await?;
    planted.named(under("wide"), &["wide.control.follower", "3 partitions"])?;
    planted.named(
        under("typo"),
        &["prefix typo", "kafka.topic_prefix = \"shardline\""],
    )?;
    planted.named(
        planted.follower().text("kafka.topic_prefix", "typo"),
        &["prefix typo", "kafka.topic_prefix = \"shardline\""],
    )?;
    planted.named(
        planted.follower().text("aliases.far", "nobody"),
        &["aliases.far", "one of: leader"],
    )?;
    a_twin(planted).await?;
    data_topic(planted).await
}

/// Another cluster of the same name has announced itself under the prefix.
async fn a_twin(planted: &Planted) -> Result<()> {
    planted
        .make_topic("twins.control.leader", 1, "compact")
        .await?;
    let node = json!({
        "cluster_uuid": "another", "cluster_name": "leader", "node_id": "n", "node_name": "twin-1",
        "transport_address": "127.0.0.1:9300", "agent_version": "0",
    });
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &planted.listeners.plain)
        .create()?;
    let (key, value) = ("node/another/n", node.to_string());
    let record = FutureRecord::to("twins.control.leader")
        .key(key)
        .payload(&value);
    let sent = producer.send(record, Duration::from_secs(20)).await;
    sent.map_err(|(error, _)| error)?;
    planted.named(
        planted.leader().text("kafka.topic_prefix", "twins"),
        &["prefix twins", "another", "called leader"],
    )
}

/// The topic of an index has settings that lose records.
async fn data_topic(planted: &Planted) -> Result<()> {
    use rdkafka::admin::{AlterConfig, ResourceSpecifier};
    let topic = planted.world.topic("books").await?;
    for (setting, value, named) in [
        ("max.message.bytes", "1048588", "large documents"),
        ("cleanup.policy", "compact", "cleanup.policy=compact"),
    ] {
        let alter = AlterConfig::new(ResourceSpecifier::Topic(topic.as_str())).set(setting, value);
        planted
            .admin()?
            .alter_configs([&alter], &AdminOptions::new())
            .await?;
        planted.named(planted.leader(), &[topic.as_str(), named, "kafka-configs"])?;
    }
    let alter = AlterConfig::new(ResourceSpecifier::Topic(topic.as_str()))
        .set("max.message.bytes", "104857600")
        .set("cleanup.policy", "delete");
    planted
        .admin()?
        .alter_configs([&alter], &AdminOptions::new())
        .await?;
    Check::connect("leader-agent", planted.leader())
        .run(planted.at())?
        .is_all_ok()
}

async fn this_machine(planted: &Planted) -> Result<()> {
    let path = |folder: &Path| format!("[\"{}\"]", folder.display());
    let (own, others) = (
        planted.data_folder("leader-1")?,
        planted.data_folder("follower-1")?,
    );
    planted.named(
        planted.leader().set("capture.data_paths", path(&others)),
        &["another node's", "capture.data_paths"],
    )?;
    read_only_folder(planted, &own)?;
    planted.named(
        planted.leader().text(
            "admin.listen",
            format!("127.0.0.1:{}", planted.world.stack.ports().leader_agents[0]),
        ),
        &["admin.listen", "cannot listen", "ss -ltnp"],
    )?;
    let used = planted.data_folder("follower-agent-1")?;
    planted.named(
        planted
            .follower()
            .text("storage.data_dir", used.display().to_string()),
        &["lock of storage.data_dir", "in use by the process"],
    )?;
    let mut few = Check::connect("leader-agent", planted.leader());
    few.around = Some("ulimit -n 128; exec \"$@\"".to_owned());
    few.run(planted.at())?
        .names(&["open files", "LimitNOFILE"], None)?;
    full_disk(planted)?;
    let disk = |enabled, low| {
        json!({"persistent": {
            "cluster.routing.allocation.disk.threshold_enabled": enabled,
            "cluster.routing.allocation.disk.watermark.low": low,
            "cluster.routing.allocation.disk.watermark.high": low,
            "cluster.routing.allocation.disk.watermark.flood_stage": low,
        }})
    };
    let set = async |body| {
        planted
            .world
            .leader
            .ok("PUT", "/_cluster/settings", Some(&body))
            .await
    };
    set(disk(json!(true), json!("1b"))).await?;
    planted.named(
        planted.leader().set("capture.spool_limit_mib", 1u64 << 40),
        &["the spool may grow", "capture.spool_limit_mib ="],
    )?;
    set(disk(json!(true), json!("100tb"))).await?;
    planted.named(planted.leader(), &["disk of", "nearly full"])?;
    set(disk(json!(null), json!(null))).await?;
    Ok(())
}

/// A disk with almost nothing on it, in a namespace of the check's own.
fn full_disk(planted: &Planted) -> Result<()> {
    let small = planted.at().join("small");
    std::fs::create_dir_all(&small)?;
    let settings = planted
        .follower()
        .text("storage.data_dir", small.display().to_string());
    let mut check = Check::connect("follower-agent", settings);
    let small = small.display();
    check.around = Some(format!(
        "exec unshare -m sh -c 'mount -t tmpfs -o size=8m none {small} && exec \"$@\"' sh \"$@\""
    ));
    check
        .run(planted.at())?
        .names(&["disk of storage.data_dir", "nearly full"], None)
}

/// The node's data is mounted into the agent, but read-only.
fn read_only_folder(planted: &Planted, own: &Path) -> Result<()> {
    let mut check = Check::connect("leader-agent", planted.leader());
    let own = own.display();
    check.around = Some(format!(
        "exec unshare -m sh -c 'mount --bind {own} {own} && mount -o remount,bind,ro {own} && \
         exec \"$@\"' sh \"$@\""
    ));
    check
        .run(planted.at())?
        .names(&["hard links", "read-write"], None)
}
