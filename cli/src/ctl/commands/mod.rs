//! Each command: its call, and what is shown of the answer.

mod bulk;
mod contexts;
mod index;
mod rules;

use http::Method;
use serde_json::{Map, Value};
use shardline_common::opensearch::path_segment;

use super::arguments::{Command, CtlArguments, Debug, Roles, Settings};
use super::client::Client;
use super::confirm::confirm;
use super::contexts::Context;
use super::options::Options;
use super::output::Output;
use super::target::{environment, resolve};
use super::{CtlError, bundle, documents};

pub(super) async fn run(arguments: CtlArguments) -> Result<(), CtlError> {
    let CtlArguments { options, command } = arguments;
    let output = Output::new(options.format());
    match command {
        Command::Completions(arguments) => output.print(&documents::completions(arguments.shell)),
        Command::Man(arguments) => match arguments.folder {
            Some(folder) => documents::man_pages(&folder),
            None => output.print(&documents::man_page()?),
        },
        Command::Context(_) if options.dry_run => Err(CtlError::NoRequest),
        Command::Context(command) => contexts::run(command, &options.connection, &output),
        command => {
            let cli = Cli::new(&options, output)?;
            let outcome = cli.carry_out(command).await;
            match &outcome {
                Err(CtlError::Dry(sent)) => return cli.output.sent(sent),
                Err(CtlError::Refused(refusal)) => cli.output.refused(&refusal.body)?,
                _ => {}
            }
            outcome
        }
    }
}

/// A gateway, and how its answers are shown.
struct Cli {
    client: Client,
    output: Output,
    context: Context,
    /// Whether nobody has to be asked before what cannot be undone.
    is_agreed: bool,
}

impl Cli {
    fn new(options: &Options, output: Output) -> Result<Self, CtlError> {
        let context = resolve(&options.connection, &environment)?;
        Ok(Self {
            client: Client::new(&context, options.dry_run)?,
            output,
            context,
            is_agreed: options.yes || options.dry_run,
        })
    }

    async fn carry_out(&self, command: Command) -> Result<(), CtlError> {
        match command {
            Command::Status(arguments) => self.status(arguments).await,
            Command::Start(arguments) => self.start(arguments).await,
            Command::Pause { index, reason } => self.pause(&index, reason).await,
            Command::Resume { index, wait } => self.resume(&index, wait.wait).await,
            Command::Stop { index } => self.stop(&index).await,
            Command::Update { index, settings } => self.update(&index, &settings).await,
            Command::Verify(arguments) => self.verify(arguments).await,
            Command::DeadLetters { index, replay } => self.dead_letters(&index, replay).await,
            Command::Autofollow(command) => self.autofollow(command).await,
            Command::Stats { of } => self.stats(of).await,
            Command::Bulk(command) => self.bulk(command).await,
            Command::Task(command) => self.task(command).await,
            Command::Debug(Debug::Bundle(arguments)) => {
                let file = bundle::make(&self.client, &self.context, arguments).await?;
                self.output.print(&format!("{} is made", file.display()))
            }
            // These ask nobody, and so do not come here.
            Command::Context(_) | Command::Completions(_) | Command::Man(_) => Ok(()),
        }
    }

    /// Goes on only if somebody agrees to what cannot be undone.
    fn confirm(&self, what: &str) -> Result<(), CtlError> {
        confirm(self.is_agreed, what)
    }

    async fn delete(&self, path: &str, body: Value) -> Result<Value, CtlError> {
        self.client.call(Method::DELETE, path, Some(body)).await
    }
}

fn of_index(index: &str, action: &str) -> String {
    format!("{}/{action}", path_segment(index))
}

fn object<const N: usize>(members: [(&str, Value); N]) -> Map<String, Value> {
    members
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

fn add_options(body: &mut Map<String, Value>, settings: &Settings, roles: &Roles) {
    let settings = settings.json();
    body.extend(settings.map(|settings| ("settings".to_owned(), settings)));
    let roles = roles.json();
    body.extend(roles.map(|roles| ("use_roles".to_owned(), roles)));
}
