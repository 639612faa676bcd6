//! Everything that an agent asks of the world and waits for. The schedule decides when a call takes
//! effect, when its answer arrives, and whether either happens at all.

use std::sync::Arc;
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::world::{Shared, World};

/// How long a request whose sender is gone may still take effect: shorter than deletions are
/// remembered.
pub const LINGER: Duration = Duration::from_secs(120);

type Effect = Box<dyn FnOnce(&mut World) + Send>;

pub struct Call {
    pub target: Target,
    pub label: String,
    effect: Option<Effect>,
    /// Answers, or says that there is no answer.
    finish: Option<Box<dyn FnOnce(bool) + Send>>,
    is_abandoned: Box<dyn Fn() -> bool + Send>,
    born: Instant,
}

/// What is asked: it decides what may go wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    Leader,
    Log,
    Follower,
}

/// Asks the world for something; `None` when no answer comes.
pub fn call<T: Send + 'static>(
    world: &Shared,
    target: Target,
    label: String,
    effect: impl FnOnce(&mut World) -> T + Send + 'static,
) -> BoxFuture<'static, Option<T>> {
    let (sender, receiver) = oneshot::channel::<T>();
    let sender = Arc::new(Mutex::new(Some(sender)));
    let reply = Arc::new(Mutex::new(None));
    let (filled, watched) = (Arc::clone(&reply), Arc::clone(&sender));
    let call = Call {
        target,
        label,
        effect: Some(Box::new(move |world| *filled.lock() = Some(effect(world)))),
        finish: Some(Box::new(move |answers| {
            let sender = sender.lock().take();
            if let (true, Some(sender), Some(reply)) = (answers, sender, reply.lock().take()) {
                // Nobody may wait for it any more.
                let _ = sender.send(reply);
            }
        })),
        is_abandoned: Box::new(move || {
            watched
                .lock()
                .as_ref()
                .is_none_or(oneshot::Sender::is_canceled)
        }),
        born: Instant::now(),
    };
    world.lock().calls.push(call);
    Box::pin(async move { receiver.await.ok() })
}

impl Call {
    pub fn is_abandoned(&self) -> bool {
        (self.is_abandoned)()
    }

    pub fn has_taken_effect(&self) -> bool {
        self.effect.is_none()
    }

    pub fn is_stale(&self) -> bool {
        self.is_abandoned() && self.born.elapsed() > LINGER
    }

    pub fn take_effect(&mut self) -> Option<Effect> {
        self.effect.take()
    }

    pub fn finish(&mut self, answers: bool) {
        if let Some(finish) = self.finish.take() {
            finish(answers);
        }
    }
}
