//! The chassis that every service stands on: time and ids, tracked tasks and drain, logs, listeners, health, and the
//! channel through which services speak, in one process or between several. It knows no service.

mod activity;
mod channel;
mod clock;
mod connection;
pub mod crash;
pub mod files;
mod frames;
mod heads;
mod health;
mod ids;
mod limits;
mod listener;
mod opening;
pub mod outbound;
mod tasks;
pub mod telemetry;

pub use channel::{Channel, ChannelError, Guard};
pub use clock::{Clock, ManualClock, SharedClock, SystemClock, Timestamp, ToldClock};
pub use connection::Connection;
pub use health::{Health, admin_routes};
pub use ids::Ids;
pub use limits::{Connections, Limits};
pub use listener::{Address, Listener, ListenerError, serve};
pub use outbound::{Outbound, OutboundConfig};
pub use prometheus_client::registry::Registry;
pub use tasks::Tasks;
