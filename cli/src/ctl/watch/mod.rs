//! `status --watch` on a terminal: a screen of its own, which the terminal's earlier contents are
//! under, with keys to scroll, filter and sort.

mod screen;
mod view;

use std::time::Duration;

use crossterm::event::EventStream;
use futures::StreamExt as _;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::CtlError;
use super::client::unexpected;
use super::grid::Look;
use super::statuses::Order;
use screen::Screen;
use view::{Flow, View};

/// Shows the answers of `ask`, one each `interval`, until the user has seen enough.
pub(super) async fn run(
    ask: impl AsyncFn() -> Result<Value, CtlError>,
    interval: Duration,
    order: Order,
    url: &str,
    look: Look,
) -> Result<(), CtlError> {
    let ask = &ask;
    let asked_after = |pause: Duration| async move {
        tokio::time::sleep(pause).await;
        ask().await
    };
    let mut view = View::new(url, order, look.has_colours);
    let mut terminated = signal(SignalKind::terminate())?;
    let mut screen = Screen::enter()?;
    let mut events = EventStream::new();
    let mut answer = Box::pin(asked_after(Duration::ZERO));
    loop {
        screen.draw(&mut view)?;
        tokio::select! {
            answered = &mut answer => {
                receive(&mut view, answered)?;
                answer = Box::pin(asked_after(interval));
            }
            event = events.next() => match event.transpose()? {
                Some(event) if view.handle(&event) == Flow::GoOn => {}
                _ => return Ok(()),
            },
            _ = terminated.recv() => return Ok(()),
        }
    }
}

/// An agent that does not answer may be back at the next look; what else is wrong stays wrong.
fn receive(view: &mut View, answered: Result<Value, CtlError>) -> Result<(), CtlError> {
    match answered {
        Ok(answer) => {
            let statuses =
                serde_json::from_value(answer).map_err(|error| unexpected("_status", &error))?;
            view.show(statuses);
            Ok(())
        }
        Err(error @ CtlError::Unreachable { .. }) => {
            view.fail(error.to_string());
            Ok(())
        }
        Err(error) => Err(error),
    }
}
