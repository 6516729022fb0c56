//! The scripts that Redis runs: each of them is one step to everybody else.

use std::sync::LazyLock;

use redis::Script;

macro_rules! script {
    ($name:ident, $file:literal) => {
        pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(include_str!(concat!("scripts/", $file))));
    };
}

script!(TAKE, "take.lua");
script!(REPORT, "report.lua");
script!(SPEND, "spend.lua");
script!(REST, "rest.lua");
script!(RESTING, "resting.lua");
