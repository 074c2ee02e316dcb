//! One target under libFuzzer: the one that `BERTH_FUZZ_TARGET` names. `tests/fuzz/run` builds it with coverage.
#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<berth_fuzz::Target> = LazyLock::new(|| {
    let name = std::env::var("BERTH_FUZZ_TARGET").unwrap_or_default();
    berth_fuzz::target(&name).expect("BERTH_FUZZ_TARGET names a target")
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| (*TARGET)(data));
