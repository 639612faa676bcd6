//! Asking before what cannot be undone.

use std::io::{IsTerminal as _, Write as _};

use super::CtlError;

/// Goes on if the caller said so beforehand or says so now. Where nobody can be asked, nothing is
/// done.
pub(super) fn confirm(is_agreed: bool, what: &str) -> Result<(), CtlError> {
    if is_agreed {
        return Ok(());
    }
    let (stdin, mut stderr) = (std::io::stdin(), std::io::stderr());
    if !stdin.is_terminal() {
        return Err(CtlError::NotConfirmed(what.to_owned()));
    }
    write!(stderr, "{what}\nGo on? [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    stdin.read_line(&mut answer)?;
    if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
        Ok(())
    } else {
        Err(CtlError::Declined)
    }
}
