//! Commands on the file of contexts. They ask no gateway.

use serde_json::{Value, json};

use crate::ctl::CtlError;
use crate::ctl::arguments::ContextCommand;
use crate::ctl::contexts::{Context, Contexts, location};
use crate::ctl::grid::Grid;
use crate::ctl::options::Connection;
use crate::ctl::output::Output;
use crate::ctl::target::environment;

pub(super) fn run(
    command: ContextCommand,
    connection: &Connection,
    output: &Output,
) -> Result<(), CtlError> {
    let file = location(&environment).ok_or(CtlError::NoContextFile)?;
    let mut contexts = Contexts::read(&file)?;
    let words = match command {
        ContextCommand::List => return list(&contexts, output),
        ContextCommand::Use { name } => {
            contexts.named(&name)?;
            contexts.current = Some(name.clone());
            format!("{name} is the current context")
        }
        ContextCommand::Set { name } => {
            let before = contexts.contexts.get(&name).cloned().unwrap_or_default();
            let context = checked(&name, before.with(connection).absolute()?)?;
            contexts.contexts.insert(name.clone(), context);
            contexts.current.get_or_insert_with(|| name.clone());
            format!("context {name} is set")
        }
        ContextCommand::Delete { name } => {
            contexts.named(&name)?;
            contexts.contexts.remove(&name);
            if contexts.current.as_deref() == Some(&name) {
                contexts.current = None;
            }
            format!("context {name} is forgotten")
        }
    };
    contexts.write(&file)?;
    output.done(&json!({"current": contexts.current}), &words)
}

fn checked(name: &str, context: Context) -> Result<Context, CtlError> {
    if context.url.is_empty() {
        return Err(CtlError::NoAddress(name.to_owned()));
    }
    if context.user.as_ref().is_some_and(|user| user.contains(':')) {
        return Err(CtlError::PasswordInName);
    }
    Ok(context)
}

fn list(contexts: &Contexts, output: &Output) -> Result<(), CtlError> {
    let answer = json!({"current": contexts.current, "contexts": contexts.contexts});
    output.show(&answer, |_: Value| {
        let mut table = Grid::new(&["", "CONTEXT", "URL", "LOGIN"]);
        for (name, context) in &contexts.contexts {
            let mark = match contexts.current.as_ref() == Some(name) {
                true => "*",
                false => "",
            };
            table.add([mark, name, &context.url, &login(context)]);
        }
        vec![table]
    })
}

fn login(context: &Context) -> String {
    match (&context.user, &context.password_file, &context.token_file) {
        (_, _, Some(file)) => format!("token in {}", file.display()),
        (Some(user), Some(file), None) => format!("{user}, password in {}", file.display()),
        (Some(user), None, None) => format!("{user}, asks for the password"),
        (None, ..) => String::new(),
    }
}
