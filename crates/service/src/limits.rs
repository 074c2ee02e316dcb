//! Bounds on what one peer may take, and what is counted of those who reach them.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

use crate::Registry;

/// Bounds on what one peer may take. A time of zero is none.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; more wait in the kernel's queue.
    pub connections: usize,
    /// Connections of one address at once; more are closed. Zero: as many as there are.
    pub connections_per_address: usize,
    /// For the TLS handshake, until the protocol is known, and for the head of a request from its first byte on.
    pub head_timeout: Duration,
    /// For a connection without a request.
    pub idle_timeout: Duration,
    /// For a client that takes nothing of what it asked for.
    pub stall_timeout: Duration,
    /// Bytes of an HTTP/1 head, and of an HTTP/2 header list.
    pub head_bytes: usize,
    /// HTTP/2 streams of one connection.
    pub streams: u32,
    /// Whether a connection full of HTTP/2 frames that do no work is ended. Not where the peers are Berth's own: their
    /// clients ask for more room and give up streams as often as the traffic of everybody behind them wants it.
    pub floods_end: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_address: 0,
            head_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(60),
            head_bytes: 64 * 1024,
            streams: 200,
            floods_end: true,
        }
    }
}

/// Why a connection was ended, or not taken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub(crate) enum Cut {
    /// The TLS handshake failed or took too long.
    Handshake = 1,
    /// Nothing that tells the protocol came in time.
    Silent,
    /// The head of a request took too long.
    Head,
    /// No request for too long.
    Idle,
    /// The client took nothing for too long.
    Stalled,
    /// Frames without any work, over and over.
    Flood,
    /// A request that two readers could understand differently.
    Ambiguous,
    /// The address has too many.
    Address,
}

impl Cut {
    const ALL: [Self; 8] = [
        Self::Handshake,
        Self::Silent,
        Self::Head,
        Self::Idle,
        Self::Stalled,
        Self::Flood,
        Self::Ambiguous,
        Self::Address,
    ];

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|cut| *cut as u8 == number)
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Silent => "silent",
            Self::Head => "head",
            Self::Idle => "idle",
            Self::Stalled => "stalled",
            Self::Flood => "flood",
            Self::Ambiguous => "ambiguous",
            Self::Address => "address",
        }
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl EncodeLabelValue for Cut {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        self.as_str().encode(encoder)
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Of {
    listener: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct CutOf {
    listener: &'static str,
    reason: Cut,
}

/// What is counted of the connections of a process.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    open: Family<Of, Gauge>,
    accepted: Family<Of, Counter>,
    cut: Family<CutOf, Counter>,
}

impl Connections {
    /// Counters in a registry.
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("berth_connections");
        let counted = Self::default();
        registry.register("open", "Connections that are open", counted.open.clone());
        registry.register("accepted", "Connections that were taken", counted.accepted.clone());
        registry.register("cut", "Connections that were ended by a limit", counted.cut.clone());
        counted
    }

    pub(crate) fn cut(&self, listener: &'static str, reason: Cut) {
        self.cut.get_or_create(&CutOf { listener, reason }).inc();
    }

    /// Counts a connection as open until what this gives is dropped.
    pub(crate) fn opened(&self, listener: &'static str) -> Open {
        self.accepted.get_or_create(&Of { listener }).inc();
        let gauge = self.open.get_or_create_owned(&Of { listener });
        gauge.inc();
        Open(gauge)
    }
}

#[derive(Debug)]
pub(crate) struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// How many connections each address has; of use when there is a limit.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    most: usize,
    known: Arc<parking_lot::Mutex<std::collections::HashMap<IpAddr, usize>>>,
}

/// A connection of an address, until it is dropped.
#[derive(Debug)]
pub(crate) struct FromAddress(Option<(Addresses, IpAddr)>);

impl Addresses {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, known: Arc::default() }
    }

    /// One more; `None` when there are too many.
    pub(crate) fn take(&self, address: Option<IpAddr>) -> Option<FromAddress> {
        let Some(address) = address.filter(|_| self.most > 0).map(|address| address.to_canonical()) else {
            return Some(FromAddress(None));
        };
        let mut known = self.known.lock();
        let count = known.entry(address).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(FromAddress(Some((self.clone(), address))))
    }
}

impl Drop for FromAddress {
    fn drop(&mut self) {
        let Some((addresses, address)) = self.0.take() else { return };
        let mut known = addresses.known.lock();
        if let Some(count) = known.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                known.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_and_another_is_not_touched() {
        let addresses = Addresses::new(2);
        let one = Some(IpAddr::from([127, 0, 0, 1]));
        let held = [addresses.take(one).unwrap(), addresses.take(one).unwrap()];
        assert!(addresses.take(one).is_none());
        assert!(addresses.take("::ffff:127.0.0.1".parse().ok()).is_none(), "it is the same");
        assert!(
            addresses.take(Some(IpAddr::from([127, 0, 0, 2]))).is_some() && addresses.take(None).is_some()
        );
        drop(held);
        assert!(addresses.known.lock().is_empty());
        assert!(addresses.take(one).is_some());
    }

    #[test]
    fn every_reason_has_a_number() {
        for cut in Cut::ALL {
            assert_eq!(Cut::from_number(cut as u8), Some(cut));
        }
        assert_eq!(Cut::from_number(0), None);
    }
}
