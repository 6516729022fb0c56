//! `models-config.json` of the system whose interface this service follows: families of models, of which those count that
//! `active_models` names. A model has one server, or lists of servers and of spare ones.

use serde_json::{Map, Value, json};

use super::findings::{At, Findings, shown};
use super::ours::Ours;
use crate::lint::did_you_mean;

/// What a server may say, or a model that has one only. `is_embedding` needs no word here: every server is asked for
/// whatever a caller asks for.
const SERVER: &[&str] = &[
    "id",
    "api_host",
    "api_token",
    "api_type",
    "input_size",
    "model_path",
    "weight",
    "keep_alive",
    "tool_calling",
    "is_embedding",
];

/// The types of servers, and what they are called here.
const TYPES: &[(&str, &str)] = &[
    ("openai", "openai"),
    ("vllm", "vllm"),
    ("ollama", "ollama"),
    ("lmstudio", "openai"),
    ("anthropic", "openai"),
];

/// A server of an active model.
struct Server<'v> {
    family: &'v str,
    model: &'v str,
    id: Option<&'v str>,
    place: String,
    /// Whether it stands in a list, and so for itself.
    is_listed: bool,
    is_spare: bool,
    kind: &'static str,
    base_url: String,
    api_key: Option<&'v str>,
    weight: f64,
    upstream: Option<&'v str>,
    context: Option<u64>,
    calls_tools: Option<bool>,
    keep_alive: Option<&'v Value>,
}

/// Where a server stands in a file.
struct Standing<'v> {
    family: &'v str,
    model: &'v str,
    is_listed: bool,
    is_spare: bool,
}

pub(super) fn translate(top: &Map<String, Value>, findings: &mut Findings<'_>) -> Ours {
    let mut servers = Vec::new();
    for (family, model, value) in active(top, findings) {
        servers.extend(servers_of(family, model, value, findings));
    }
    refuse_equal_ids(&servers, findings);
    put_together(&servers)
}

/// The models that are named as active, with their families.
fn active<'v>(
    top: &'v Map<String, Value>,
    findings: &mut Findings<'_>,
) -> Vec<(&'v str, &'v str, &'v Value)> {
    let mut active: Vec<(&str, &str, &Value)> = Vec::new();
    let Some(named) = top.get("active_models") else {
        let cure = "name what is to be served: \"active_models\": {\"family\": [\"model\"]}";
        findings.fault("", "`active_models` is missing", cure);
        return active;
    };
    let Some(named) = findings.object("active_models".to_owned(), named) else { return active };
    for family in named.members.keys().filter(|family| *family != "comment") {
        let place = format!("active_models.{family}");
        let Some(models) = top.get(family).filter(|_| family != "active_models") else {
            let families = top.keys().filter(|key| *key != "active_models" && *key != "comment");
            let cure = did_you_mean(family, families.map(String::as_str));
            findings.fault("active_models", &format!("there is no family `{}`", shown(family)), &cure);
            continue;
        };
        let Some(models) = findings.object(family.clone(), models) else { continue };
        for name in findings.list(&named, family) {
            let Some(name) = name.as_str() else {
                findings.fault(&place, "this lists something that is no text", "list names of models");
                continue;
            };
            let Some(model) = models.members.get(name) else {
                let cure = did_you_mean(name, models.members.keys().map(String::as_str));
                let problem = format!("there is no model `{}` in the family `{family}`", shown(name));
                findings.fault(&place, &problem, &cure);
                continue;
            };
            if active.iter().any(|(other, model, _)| other == family && *model == name) {
                findings.warn(&place, &format!("`{}` stands twice", shown(name)));
                continue;
            }
            active.push((family, name, model));
        }
    }
    active
}

fn servers_of<'v>(
    family: &'v str,
    model: &'v str,
    value: &'v Value,
    findings: &mut Findings<'_>,
) -> Vec<Server<'v>> {
    let Some(at) = findings.object(format!("{family}.{model}"), value) else { return Vec::new() };
    let lists = ["providers", "providers_sleep"];
    let is_listed = lists.iter().any(|key| at.members.contains_key(*key));
    let standing = |is_spare| Standing { family, model, is_listed, is_spare };
    if !is_listed {
        if !SERVER.iter().any(|key| at.members.contains_key(*key)) {
            findings.fault(&at.place, "the model has no provider", "list one in `providers`");
            return Vec::new();
        }
        return server(&at, &standing(false), findings).into_iter().collect();
    }
    findings.unknown_keys(&at, &[&lists, SERVER].concat());
    for key in SERVER.iter().filter(|key| at.members.contains_key(**key)) {
        findings.warn(&at.place, &format!("`{key}` has no effect beside `providers`"));
    }
    let mut servers = Vec::new();
    for (key, is_spare) in lists.into_iter().zip([false, true]) {
        let listed = findings.list(&at, key);
        if listed.is_empty() && !is_spare {
            findings.fault(&at.place, "the model has no provider", "list one in `providers`");
        }
        for (index, value) in listed.iter().enumerate() {
            let id = value.get("id").and_then(Value::as_str);
            let id = id.map(|id| format!(" (`{}`)", shown(id))).unwrap_or_default();
            let place = format!("{}.{key}[{index}]{id}", at.place);
            let Some(at) = findings.object(place, value) else { continue };
            servers.extend(server(&at, &standing(is_spare), findings));
        }
    }
    servers
}

/// Reads all that there is before it gives up, so that all faults are told at once.
fn server<'v>(at: &At<'v>, standing: &Standing<'v>, findings: &mut Findings<'_>) -> Option<Server<'v>> {
    let known = if standing.is_listed { SERVER.to_vec() } else { [SERVER, &["providers"]].concat() };
    findings.unknown_keys(at, &known);
    let kind = kind(at, findings);
    let has_host = findings.requires(at, "api_host", "say where it is, such as http://host:port");
    let host = if has_host { findings.address(at, "api_host") } else { None };
    let api_key = findings.text(at, "api_token");
    if api_key.is_some_and(|key| !key.contains("${")) {
        findings
            .warn(&at.place, "`api_token` stands in the file itself; write ${NAME} or ${file:/path} instead");
    }
    let calls_tools = findings.flag(at, "tool_calling");
    findings.flag(at, "is_embedding");
    let (context, weight) = (findings.count(at, "input_size"), findings.number(at, "weight"));
    let (id, upstream) = (findings.text(at, "id"), findings.text(at, "model_path"));
    let keep_alive = keep_alive(at, kind, findings);
    let kind = kind?;
    Some(Server {
        family: standing.family,
        model: standing.model,
        id,
        place: at.place.clone(),
        is_listed: standing.is_listed,
        is_spare: standing.is_spare,
        kind,
        base_url: base_url(kind, host?),
        api_key,
        weight: weight.unwrap_or(1.0).clamp(0.0, 1.0),
        upstream: upstream.filter(|upstream| *upstream != standing.model),
        context: context.filter(|tokens| *tokens > 0),
        calls_tools,
        keep_alive,
    })
}

/// What the type is called here.
fn kind(at: &At<'_>, findings: &mut Findings<'_>) -> Option<&'static str> {
    let known = || TYPES.iter().map(|(theirs, _)| *theirs);
    let cure = format!("say what it is: {}", known().collect::<Vec<_>>().join(", "));
    if !findings.requires(at, "api_type", &cure) {
        return None;
    }
    let theirs = findings.text(at, "api_type")?;
    if theirs == "anthropic" {
        let words =
            "`anthropic` is asked by its OpenAI-compatible endpoint, which lacks some of its own features";
        findings.warn(&at.place, words);
    }
    let ours = TYPES.iter().find(|(known, _)| *known == theirs).map(|(_, ours)| *ours);
    if ours.is_none() {
        let problem = format!("the `api_type` `{}` is unknown", shown(theirs));
        findings.fault(&at.place, &problem, &did_you_mean(theirs, known()));
    }
    ours
}

/// How long a server of Ollama's keeps the model loaded. The others take no such wish.
fn keep_alive<'v>(at: &At<'v>, kind: Option<&'static str>, findings: &mut Findings<'_>) -> Option<&'v Value> {
    let value = at.members.get("keep_alive").filter(|value| !value.is_null() && **value != "")?;
    match kind {
        _ if !value.is_string() && !value.is_number() => {
            let cure = "give a time such as \"5m\", or null";
            findings.fault(&at.place, "`keep_alive` is neither a text nor a number", cure);
            None
        }
        Some("ollama") => Some(value),
        _ => {
            findings.warn(&at.place, "`keep_alive` has no effect: only `ollama` takes it");
            None
        }
    }
}

/// The address as it stands here: with the version for OpenAI's API, without it for Ollama's.
fn base_url(kind: &str, host: &str) -> String {
    let host = host.trim_end_matches('/');
    // What a reference stands for may have its version or not, and gets one if it has no path.
    if host.ends_with('}') {
        return host.to_owned();
    }
    let root = host.trim_end_matches("/v1").trim_end_matches('/');
    if kind == "ollama" { root.to_owned() } else { format!("{root}/v1") }
}

/// An id names one server, as the metrics and logs of its users have it.
fn refuse_equal_ids(servers: &[Server<'_>], findings: &mut Findings<'_>) {
    for (index, server) in servers.iter().enumerate() {
        let Some(id) = server.id else { continue };
        if let Some(other) = servers.iter().take(index).find(|other| other.id == Some(id)) {
            let problem = format!("the `id` `{}` is that of {} already", shown(id), other.place);
            findings.fault(&server.place, &problem, "give each its own");
        }
    }
}

fn put_together(servers: &[Server<'_>]) -> Ours {
    let mut ours = Ours::default();
    // Those without an id and a list of their own, by what makes them one provider.
    let mut shared: Vec<(&Server<'_>, String)> = Vec::new();
    for server in servers {
        let of_model: Vec<&Server<'_>> = servers.iter().filter(|other| other.model == server.model).collect();
        let is_alone = server.is_listed || server.id.is_some();
        let known = shared.iter().find(|(other, _)| !is_alone && is_same_provider(other, server));
        let provider = match known {
            Some((_, name)) => name.clone(),
            None => {
                let wanted = server.id.unwrap_or(server.family);
                let name = ours.add_provider(wanted, &server.place, server.provider());
                if !is_alone {
                    shared.push((server, name.clone()));
                }
                name
            }
        };
        let strategy = strategy(&of_model);
        ours.add_model(&provider, (server.model, &server.place), server.settings(&of_model, strategy));
        if let Some(strategy) = strategy {
            ours.set_strategy(server.model, strategy);
        }
    }
    ours
}

fn is_same_provider(one: &Server<'_>, other: &Server<'_>) -> bool {
    let identity = |server: &Server<'_>| {
        (server.family.to_owned(), server.kind, server.base_url.clone(), server.api_key.map(str::to_owned))
    };
    identity(one) == identity(other)
}

/// The original balances: all in turns, or by weights where they differ. `None` where nobody is to choose among.
fn strategy(of_model: &[&Server<'_>]) -> Option<&'static str> {
    let mut strategy = None;
    for server in of_model {
        let tier = server.tier(of_model);
        let peers = of_model.iter().filter(|other| other.tier(of_model) == tier);
        for peer in peers.filter(|peer| !std::ptr::eq(**peer, *server)) {
            if peer.weight.total_cmp(&server.weight).is_ne() {
                return Some("weighted");
            }
            strategy = Some("round_robin");
        }
    }
    strategy
}

impl Server<'_> {
    fn provider(&self) -> Map<String, Value> {
        let mut provider = Map::new();
        provider.insert("type".to_owned(), self.kind.into());
        provider.insert("base_url".to_owned(), self.base_url.as_str().into());
        if let Some(key) = self.api_key {
            provider.insert("api_key".to_owned(), key.into());
        }
        provider
    }

    /// Lower is asked first. Spare ones come after all others, and in each of the two groups those of weight 0 after
    /// those that weight can choose.
    fn tier(&self, of_model: &[&Self]) -> i32 {
        let is_passed_over = self.weight <= 0.0
            && of_model.iter().any(|other| other.is_spare == self.is_spare && other.weight > 0.0);
        2 * i32::from(self.is_spare) + i32::from(is_passed_over)
    }

    fn settings(&self, of_model: &[&Self], strategy: Option<&str>) -> Map<String, Value> {
        let mut settings = Map::new();
        let mut set = |key: &str, value: Option<Value>| {
            settings.extend(value.map(|value| (key.to_owned(), value)));
        };
        let tier = self.tier(of_model);
        set("upstream", self.upstream.map(Value::from));
        set("priority", (tier > 0).then(|| tier.into()));
        set("weight", (strategy == Some("weighted") && self.weight > 0.0).then(|| self.weight.into()));
        set("context", self.context.map(Value::from));
        set("supports", self.calls_tools.map(|tools| json!({ "tools": tools })));
        set("defaults", self.keep_alive.map(|time| json!({ "keep_alive": time })));
        settings
    }
}
