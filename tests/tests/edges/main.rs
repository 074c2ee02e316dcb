//! A server on the internet: clients that are slow, idle, many, or hostile, on a plain and on a TLS listener (T22 to T24,
//! T26, T38). Whoever takes too much is cut off, and everybody else goes on.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]
#![allow(clippy::print_stdout, reason = "what was measured belongs in the log")]

mod bodies;
mod connections;
mod crowd;
mod drain;
mod flood;
mod framing;
mod http2;
mod reading;
mod server;

/// A test that runs on both kinds of listener.
macro_rules! on_both_listeners {
    ($($(#[$attribute:meta])* async fn $name:ident($listener:ident: Listener) $body:block)*) => {$(
        mod $name {
            use super::*;

            async fn on($listener: crate::server::Listener) $body

            $(#[$attribute])*
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn plain() {
                on(crate::server::Listener::Plain).await;
            }

            $(#[$attribute])*
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn tls() {
                on(crate::server::Listener::Tls).await;
            }
        }
    )*};
}
pub(crate) use on_both_listeners;
