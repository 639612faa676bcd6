//! What the plugin said of callers a moment ago.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::caller::{Caller, Identity};
use crate::http::gateway::upstream::Answer;

/// How long somebody who was let in is not asked about again: as long as a right that is taken away
/// may last.
const ADMITTED_FOR: Duration = Duration::from_secs(5);
const REFUSED_FOR: Duration = Duration::from_secs(1);
/// Most callers that are remembered.
const MOST: usize = 10_000;

/// What the plugin said of a caller.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    Admitted(Caller),
    Refused(Answer),
}

#[derive(Debug, Default)]
pub(super) struct Logins {
    known: Mutex<HashMap<Identity, (Instant, Verdict)>>,
}

impl Logins {
    pub(super) fn get(&self, identity: Identity, now: Instant) -> Option<Verdict> {
        let known = self.known.lock();
        let (until, verdict) = known.get(&identity)?;
        (now < *until).then(|| verdict.clone())
    }

    pub(super) fn keep(&self, identity: Identity, verdict: Verdict, now: Instant) {
        let valid = match verdict {
            Verdict::Admitted(_) => ADMITTED_FOR,
            Verdict::Refused(_) => REFUSED_FOR,
        };
        let mut known = self.known.lock();
        if known.len() >= MOST {
            known.retain(|_, (until, _)| now < *until);
        }
        // Somebody tries names: whoever is real is asked about again.
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(identity, (now + valid, verdict));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn somebody(name: &str) -> (Identity, Verdict) {
        let mut headers = http::HeaderMap::new();
        headers.insert("authorization", name.parse().unwrap());
        let caller = Caller {
            name: name.to_owned(),
            shown: name.to_owned(),
            roles: Default::default(),
            is_agent: false,
        };
        let identity = Identity::of(&headers).unwrap();
        (identity, Verdict::Admitted(caller))
    }

    #[test]
    fn a_verdict_is_forgotten_after_its_time() {
        let (logins, now) = (Logins::default(), Instant::now());
        let (identity, admitted) = somebody("a");
        logins.keep(identity, admitted, now);
        assert!(logins.get(identity, now + ADMITTED_FOR / 2).is_some());
        assert!(logins.get(identity, now + ADMITTED_FOR).is_none());
        let refused = Verdict::Refused(Answer {
            status: http::StatusCode::UNAUTHORIZED,
            headers: http::HeaderMap::new(),
            body: bytes::Bytes::new(),
        });
        logins.keep(identity, refused, now);
        assert!(logins.get(identity, now + REFUSED_FOR).is_none());
    }

    #[test]
    fn no_more_than_so_many_are_remembered() {
        let (logins, now) = (Logins::default(), Instant::now());
        for name in 0..MOST + 10 {
            let (identity, verdict) = somebody(&name.to_string());
            logins.keep(identity, verdict, now);
        }
        assert!(logins.known.lock().len() <= MOST);
    }
}
