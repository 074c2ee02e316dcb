//! A round robin before several gateways: each new connection goes to the next one.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// A running round robin. It lives on a thread of its own, so that tests with runtimes of their own can share it.
#[derive(Debug)]
pub struct RoundRobin {
    address: SocketAddr,
    targets: Arc<Mutex<Vec<SocketAddr>>>,
    stopped: Arc<AtomicBool>,
}

impl RoundRobin {
    /// Starts on a free port.
    pub fn start(targets: Vec<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let targets = Arc::new(Mutex::new(targets));
        let stopped = Arc::new(AtomicBool::new(false));
        let (to, end) = (Arc::clone(&targets), Arc::clone(&stopped));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(accept(listener, to, end));
        });
        Self { address, targets, stopped }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Other targets, for new connections.
    pub fn retarget(&self, targets: Vec<SocketAddr>) {
        *self.targets.lock().unwrap() = targets;
    }
}

impl Drop for RoundRobin {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the accept that looks at the flag.
        let _closed = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

async fn accept(listener: TcpListener, targets: Arc<Mutex<Vec<SocketAddr>>>, stopped: Arc<AtomicBool>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let turn = AtomicUsize::new(0);
    while let Ok((mut client, _)) = listener.accept().await {
        if stopped.load(Ordering::SeqCst) {
            return;
        }
        let target = {
            let targets = targets.lock().unwrap();
            targets.get(turn.fetch_add(1, Ordering::Relaxed) % targets.len().max(1)).copied()
        };
        let Some(target) = target else { continue };
        #[expect(clippy::disallowed_methods, reason = "a test's own proxy")]
        tokio::spawn(async move {
            let Ok(mut gateway) = tokio::net::TcpStream::connect(target).await else { return };
            let _one_side_closed = tokio::io::copy_bidirectional(&mut client, &mut gateway).await;
        });
    }
}
