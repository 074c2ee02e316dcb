//! One deployment for each setting, shared by all tests of a process, and the macro that makes a test of each.

use std::time::{Duration, Instant};

use tokio::sync::{Mutex, OnceCell};

use crate::{Deployment, Engine, Layout, Setting};

fn place(layout: Layout, engine: Engine) -> usize {
    match (layout, engine) {
        (Layout::OneProcess, Engine::Sqlite) => 0,
        (Layout::OneProcess, Engine::Postgres) => 1,
        (Layout::RolesApart, Engine::Sqlite) => 2,
        (Layout::RolesApart, Engine::Postgres) => 3,
    }
}

/// How often a shared deployment is verified at most, all that is in it each time.
const VERIFY: Duration = Duration::from_secs(5);

/// A case has ended well: what it and all before it left has to be sound, while others go on.
pub async fn ended(layout: Layout, engine: Engine) {
    static VERIFIED: [Mutex<Option<Instant>>; 4] = [const { Mutex::const_new(None) }; 4];
    let mut verified = VERIFIED[place(layout, engine)].lock().await;
    if verified.is_none_or(|at| at.elapsed() >= VERIFY) {
        shared(layout, engine).await.is_sound().await.unwrap();
        *verified = Some(Instant::now());
    }
}

/// The deployment of a setting with one gateway, started by the first test that asks.
pub async fn shared(layout: Layout, engine: Engine) -> &'static Deployment {
    static SHARED: [OnceCell<Deployment>; 4] = [const { OnceCell::const_new() }; 4];
    let place = place(layout, engine);
    let start = || async { Deployment::builder(Setting::new(layout, engine)).start().await.unwrap() };
    SHARED[place].get_or_init(start).await
}

/// Makes four tests of every case, one a setting: `t17_…::roles_apart_on_postgres`. A case is an async function that
/// takes a `&'static Deployment`, which it shares with other cases: it uses repositories of its own.
///
/// ```ignore
/// in_every_setting! {
///     async fn t17_a_gap_is_refused(deployment: &'static Deployment) { … }
/// }
/// ```
#[macro_export]
macro_rules! in_every_setting {
    ($($(#[$attribute:meta])* async fn $case:ident($deployment:ident : &'static Deployment) $body:block)*) => {$(
        mod $case {
            #[allow(unused_imports, reason = "cases differ in what they use")]
            use super::*;

            async fn case($deployment: &'static $crate::Deployment) $body

            $crate::in_every_setting! { @tests [$(#[$attribute])*]
                one_process_on_sqlite OneProcess Sqlite;
                one_process_on_postgres OneProcess Postgres;
                roles_apart_on_sqlite RolesApart Sqlite;
                roles_apart_on_postgres RolesApart Postgres;
            }
        }
    )*};
    (@tests $attributes:tt $($test:ident $layout:ident $engine:ident;)*) => {$(
        $crate::in_every_setting! { @test $attributes $test $layout $engine }
    )*};
    (@test [$(#[$attribute:meta])*] $test:ident $layout:ident $engine:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        $(#[$attribute])*
        async fn $test() {
            case($crate::shared($crate::Layout::$layout, $crate::Engine::$engine).await).await;
            $crate::ended($crate::Layout::$layout, $crate::Engine::$engine).await;
        }
    };
}
