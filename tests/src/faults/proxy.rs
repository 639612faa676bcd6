//! A link that can be cut, slowed down, made lossy or reset, for one client and one server.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::load::Random;

const BUFFER_BYTES: usize = 64 * 1024;
/// After how long a lost packet is there after all, as TCP sends it again.
const RETRANSMISSION: Duration = Duration::from_millis(400);
/// One read in so many loses a packet.
const LOSS: u64 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Open,
    /// Connections stay, and nothing gets through.
    Cut,
    Slow(Duration),
    Lossy,
    /// Connections are reset, and so is every new one.
    Reset,
}

pub struct Proxy {
    pub port: u16,
    link: watch::Sender<Link>,
}

impl Proxy {
    /// To a server that need not be there yet. Ends with the runtime.
    pub async fn start(server: u16) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (link, state) = watch::channel(Link::Open);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connect(client, server, state.clone()));
            }
        });
        Ok(Self { port, link })
    }

    pub fn set(&self, link: Link) {
        self.link.send_replace(link);
    }
}

async fn connect(client: TcpStream, server: u16, mut link: watch::Receiver<Link>) {
    let is_open = link
        .wait_for(|link| *link != Link::Cut)
        .await
        .is_ok_and(|link| *link != Link::Reset);
    // Dropped with what it had to say unread, a connection is reset.
    if !is_open {
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) =
        (client.into_split(), server.into_split());
    let mut reset = link.clone();
    tokio::select! {
        () = pump(from_client, to_server, link.clone()) => {}
        () = pump(from_server, to_client, link) => {}
        _ = reset.wait_for(|link| *link == Link::Reset) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut link: watch::Receiver<Link>) {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut random = Random::seeded(7);
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        let now = *link.borrow();
        match now {
            Link::Slow(delay) => tokio::time::sleep(delay).await,
            Link::Lossy if random.below(LOSS) == 0 => tokio::time::sleep(RETRANSMISSION).await,
            Link::Cut if link.wait_for(|link| *link != Link::Cut).await.is_err() => return,
            _ => {}
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
