//! Who is asked first, by each strategy.

use serde_json::json;
use tokio::time::Instant;

use crate::config::{Catalog, ModelPolicy, ModelSource, Strategy};
use crate::leaderboard::Leaderboard;
use crate::router::health::Need;
use crate::router::tests::served;
use crate::router::{HealthBook, RoutingTable, Served};
use crate::telemetry::Metrics;

/// A deployment by its name, priority and weight.
type Ranked = (&'static str, i32, f64);

/// Who would be asked, request after request.
const ORDERS: &[(Strategy, &[Ranked], &[&str])] = &[
    (Strategy::Priority, &[("b", 2, 1.0), ("a", 1, 1.0)], &["a b", "a b"]),
    (Strategy::RoundRobin, &[("a", 0, 1.0), ("b", 0, 1.0)], &["a b", "b a", "a b"]),
    // The spare one comes last, wherever it stands.
    (Strategy::RoundRobin, &[("s", 1, 9.0), ("a", 0, 1.0), ("b", 0, 1.0)], &["a b s", "b a s", "a b s"]),
    (Strategy::RoundRobin, &[("a", 0, 1.0), ("s", 1, 1.0), ("t", 1, 1.0)], &["a s t", "a t s", "a s t"]),
    (Strategy::Weighted, &[("a", 0, 1.0), ("b", 0, 2.0)], &["b a", "a b", "b a", "b a"]),
    (Strategy::Weighted, &[("s", 1, 9.0), ("a", 0, 1.0), ("b", 0, 2.0)], &["b a s", "a b s", "b a s"]),
    (
        Strategy::Weighted,
        &[("a", 0, 1.0), ("s", 5, 1.0), ("t", 5, 3.0)],
        &["a t s", "a s t", "a t s", "a t s"],
    ),
    // Nobody has been asked yet: the order of the file, or another by chance, but never across tiers.
    (Strategy::LeastLatency, &[("s", 1, 1.0), ("a", 0, 1.0)], &["a s", "a s", "a s"]),
    (Strategy::Score, &[("tiny-1b", 0, 1.0), ("big-70b", 1, 1.0)], &["big-70b tiny-1b", "big-70b tiny-1b"]),
];

#[tokio::test]
async fn strategies_choose_within_a_tier_and_later_tiers_come_later() {
    for (strategy, deployments, asked) in ORDERS {
        let served: Vec<Served> = deployments
            .iter()
            .map(|(name, priority, weight)| {
                let mut served = served(name, *priority, &json!({}));
                if let ModelSource::Listed(models) = &mut served.config.models {
                    models[0].weight = Some(*weight);
                }
                served
            })
            .collect();
        let policy =
            ModelPolicy { model: "m".to_owned(), strategy: Some(*strategy), ..ModelPolicy::default() };
        let catalog = Catalog { policies: vec![policy], ..Catalog::default() };
        let board = Leaderboard::default();
        let table = RoutingTable::new(&served, &catalog, &board, &Metrics::default(), &HealthBook::default());
        let route = table.route("m").unwrap();
        for (request, expected) in asked.iter().enumerate() {
            let order = route.order.of(&route.deployments, false, None);
            let order: Vec<&str> = order.map(|deployment| &*deployment.provider_name).collect();
            assert_eq!(order.join(" "), *expected, "request {request} by {strategy:?} of {deployments:?}");
        }
    }
}

#[tokio::test]
async fn the_faster_one_is_asked_within_its_tier() {
    let served =
        [served("spare", 1, &json!({})), served("slow", 0, &json!({})), served("fast", 0, &json!({}))];
    let policy = ModelPolicy {
        model: "m".to_owned(),
        strategy: Some(Strategy::LeastLatency),
        ..ModelPolicy::default()
    };
    let catalog = Catalog { policies: vec![policy], ..Catalog::default() };
    let board = Leaderboard::default();
    let table = RoutingTable::new(&served, &catalog, &board, &Metrics::default(), &HealthBook::default());
    let route = table.route("m").unwrap();
    for (name, seconds) in [("spare", 1), ("slow", 30), ("fast", 10)] {
        let deployment = route.deployments.iter().find(|it| &*it.provider_name == name).unwrap();
        let pass = deployment.health.admit(Need::Usual, Instant::now()).unwrap();
        pass.took(std::time::Duration::from_secs(seconds), true);
    }
    for _ in 0..20 {
        let order: Vec<&str> =
            route.order.of(&route.deployments, true, None).map(|it| &*it.provider_name).collect();
        assert_eq!(order, ["fast", "slow", "spare"]);
    }
    let usual: Vec<&str> = route.candidates(None, None).iter().map(|it| &*it.provider_name).collect();
    assert_eq!(usual, ["fast", "slow", "spare"]);
}
