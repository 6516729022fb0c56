//! Questions about usage, as they stand behind the question mark, and their answers: as JSON, or as a table for
//! spreadsheets.

use std::collections::HashMap;

use poem::Response;
use poem::http::HeaderValue;
use poem::http::header::CONTENT_DISPOSITION;
use serde_json::{Map, Value};

use super::error::ApiError;
use super::payload::{json_response, text_response};
use super::schema::{UsageBody, UsageRowBody};
use crate::accounts::Accounts;
use crate::callers::{Key, Zone, moment_as_text, now_ms};
use crate::lint::did_you_mean;
use crate::store::{By, UsageQuery, UsageRow};

/// What usage may be told by, in the words of the API.
const GROUPS: [(&str, By); 9] = [
    ("hour", By::Hour),
    ("day", By::Day),
    ("model", By::Model),
    ("key", By::Key),
    ("owner", By::Owner),
    ("provider", By::Provider),
    ("endpoint", By::Endpoint),
    ("prompt", By::Prompt),
    ("outcome", By::Outcome),
];
/// The measures of a row, in the order of a table.
const MEASURES: [&str; 12] = [
    "requests",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cached_prompt_tokens",
    "reasoning_tokens",
    "cost",
    "unpriced_requests",
    "estimated_requests",
    "cancelled",
    "failed",
    "cut",
];
/// What is told if nobody says from when on: so much before the end.
pub(super) const DEFAULT_SPAN_MS: i64 = 86_400_000;
/// So many rows are told at once.
const MOST_ROWS: usize = 10_000;

/// A question, as it was asked.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
    pub(super) group_by: Option<String>,
    pub(super) format: Option<String>,
}

/// A question that makes sense.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) query: UsageQuery,
    is_table: bool,
}

impl Asked {
    /// # Errors
    /// It makes no sense.
    pub(super) fn read(&self, zone: &Zone, now_ms: i64) -> Result<Question, ApiError> {
        let to_ms = self.to.as_deref().map(|text| moment("to", text, zone)).transpose()?;
        // A day that is named as the end is meant with its evening.
        let to_ms = to_ms.map_or(now_ms, |(_, end)| end);
        let from_ms = self.from.as_deref().map(|text| moment("from", text, zone)).transpose()?;
        let from_ms = from_ms.map_or(to_ms.saturating_sub(DEFAULT_SPAN_MS), |(begin, _)| begin);
        if from_ms >= to_ms {
            return Err(ApiError::invalid("from", "`from` must be before `to`"));
        }
        let is_table = match self.format.as_deref() {
            None | Some("json") => false,
            Some("csv") => true,
            Some(_) => return Err(ApiError::invalid("format", "`format` must be json or csv")),
        };
        let by = self.group_by.as_deref().map(groups).transpose()?.unwrap_or_default();
        // One more than is told, to know whether there are more.
        let query =
            UsageQuery { from_ms, to_ms, by, zone: zone.clone(), limit: MOST_ROWS + 1, ..Default::default() };
        Ok(Question { query, is_table })
    }
}

fn moment(param: &str, text: &str, zone: &Zone) -> Result<(i64, i64), ApiError> {
    // Behind a question mark, a `+` that is not escaped is a space.
    let text = text.trim().replace(' ', "+");
    zone.moment_or_day(&text).ok_or_else(|| {
        let must = format!("`{param}` must be a time such as 2026-11-21T10:00:00Z, or a date");
        ApiError::invalid(param, must)
    })
}

fn groups(text: &str) -> Result<Vec<By>, ApiError> {
    let mut groups: Vec<By> = Vec::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let by = GROUPS.iter().find(|(known, _)| *known == word).map(|(_, by)| *by).ok_or_else(|| {
            let cure = did_you_mean(word, GROUPS.iter().map(|(known, _)| *known));
            ApiError::invalid("group_by", format!("a word of `group_by` means nothing; {cure}"))
        })?;
        if !groups.contains(&by) {
            groups.push(by);
        }
    }
    Ok(groups)
}

fn word_of(by: By) -> Option<&'static str> {
    GROUPS.iter().find(|(_, known)| *known == by).map(|(word, _)| *word)
}

impl Question {
    /// The answer.
    ///
    /// # Errors
    /// The store does not tell.
    pub(super) async fn answer(self, accounts: &Accounts) -> Result<Response, ApiError> {
        let is_table = self.is_table;
        let Told { columns, rows, body } = self.told(accounts).await?;
        if is_table {
            return Ok(table_response(table(&columns, &rows), body.truncated));
        }
        Ok(json_response(in_json(&columns, &rows, &body).to_string().into()))
    }

    async fn told(self, accounts: &Accounts) -> Result<Told, ApiError> {
        let mut rows = accounts.usage(&self.query).await?;
        let truncated = rows.len() > MOST_ROWS;
        rows.truncate(MOST_ROWS);
        let groups: Vec<&str> = self.query.by.iter().filter_map(|by| word_of(*by)).collect();
        let mut rows: Vec<UsageRowBody> = rows.into_iter().map(UsageRowBody::from).collect();
        if self.query.by.contains(&By::Key) {
            name_keys(&mut rows, accounts.list(None).await?);
        }
        let body = UsageBody {
            from: moment_as_text(self.query.from_ms),
            to: moment_as_text(self.query.to_ms),
            group_by: groups.iter().map(|word| (*word).to_owned()).collect(),
            rows: Vec::new(),
            truncated,
        };
        Ok(Told { columns: columns(&groups), rows, body })
    }
}

/// What was used, before it is put into a form.
struct Told {
    columns: Vec<&'static str>,
    rows: Vec<UsageRowBody>,
    body: UsageBody,
}

fn in_json(columns: &[&str], rows: &[UsageRowBody], body: &UsageBody) -> Value {
    // Groups that were not asked for are left out, which the type of a row cannot say.
    let mut body = object_of(body);
    let rows = rows.iter().map(|row| Value::Object(named(columns, row))).collect();
    body.insert("rows".to_owned(), Value::Array(rows));
    Value::Object(body)
}

/// A query from this machine: the parameters of `GET /admin/usage`.
#[derive(Debug, Default)]
pub struct UsageQuestion {
    /// From then on: a time, or a date.
    pub from: Option<String>,
    /// Until before then, or to the end of that date.
    pub to: Option<String>,
    /// A comma list of groups.
    pub group_by: Option<String>,
    /// Of this key alone.
    pub key: Option<String>,
    /// Of this owner alone.
    pub owner: Option<String>,
    /// Of this model alone.
    pub model: Option<String>,
}

/// The answer to `GET /admin/usage`, without asking a service.
///
/// # Errors
/// The question makes no sense, or the store does not tell.
pub async fn usage_as_json(asked: UsageQuestion, zone: &Zone, accounts: &Accounts) -> Result<Value, String> {
    let UsageQuestion { from, to, group_by, key, owner, model } = asked;
    let told = async {
        let mut question = Asked { from, to, group_by, format: None }.read(zone, now_ms())?;
        (question.query.key, question.query.owner, question.query.model) = (key, owner, model);
        question.told(accounts).await
    };
    let told = told.await.map_err(|error: ApiError| {
        error.body(false).pointer("/error/message").and_then(Value::as_str).unwrap_or_default().to_owned()
    })?;
    Ok(in_json(&told.columns, &told.rows, &told.body))
}

fn object_of(body: &impl serde::Serialize) -> Map<String, Value> {
    match serde_json::to_value(body) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    }
}

/// What a row tells: the groups that were asked for, and the measures.
fn columns(groups: &[&'static str]) -> Vec<&'static str> {
    let of_group = |group: &&'static str| match *group {
        // An id says nothing to those who read it.
        "key" => vec!["key", "key_name"],
        group => vec![group],
    };
    groups.iter().flat_map(of_group).chain(MEASURES).collect()
}

/// Puts in the names of the keys that there still are.
fn name_keys(rows: &mut [UsageRowBody], keys: Vec<Key>) {
    let names: HashMap<String, String> = keys.into_iter().map(|key| (key.id, key.name)).collect();
    for row in rows {
        row.key_name = row.key.as_ref().and_then(|id| names.get(id).cloned());
    }
}

fn named(columns: &[&str], row: &UsageRowBody) -> Map<String, Value> {
    let mut all = object_of(row);
    columns.iter().map(|name| ((*name).to_owned(), all.remove(*name).unwrap_or_default())).collect()
}

fn table_response(table: String, truncated: bool) -> Response {
    let mut response = text_response("text/csv; charset=utf-8", table);
    let headers = response.headers_mut();
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"usage.csv\""));
    if truncated {
        headers.insert("x-llm-truncated", HeaderValue::from_static("true"));
    }
    response
}

/// Comma-separated values (RFC 4180), with the names in the first line.
fn table(columns: &[&str], rows: &[UsageRowBody]) -> String {
    let mut lines = vec![columns.join(",")];
    lines.extend(rows.iter().map(|row| {
        let cells: Vec<String> = named(columns, row).values().map(cell).collect();
        cells.join(",")
    }));
    lines.push(String::new());
    lines.join("\r\n")
}

fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => return String::new(),
        Value::String(text) => text,
        other => return other.to_string(),
    };
    // A spreadsheet takes what begins like this for a formula, and runs it.
    let text =
        if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.clone() };
    if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

impl From<UsageRow> for UsageRowBody {
    fn from(row: UsageRow) -> Self {
        let cost = cost_of(&row);
        Self {
            hour: row.hour_ms.map(moment_as_text),
            day: row.day,
            model: row.model,
            key: row.key,
            key_name: None,
            owner: row.owner,
            provider: row.provider,
            endpoint: row.endpoint,
            prompt: row.prompt,
            outcome: row.outcome,
            requests: row.requests,
            prompt_tokens: row.input_tokens,
            completion_tokens: row.output_tokens,
            total_tokens: row.input_tokens.saturating_add(row.output_tokens),
            cached_prompt_tokens: row.cached_input_tokens,
            reasoning_tokens: row.reasoning_tokens,
            cost,
            unpriced_requests: row.unpriced,
            estimated_requests: row.estimated,
            cancelled: row.cancelled,
            failed: row.failed,
            cut: row.cut,
        }
    }
}

/// What has no price costs nobody knows what, which is not nothing.
pub(super) fn cost_of(row: &UsageRow) -> Option<f64> {
    (row.unpriced == 0 || row.cost > 0.0).then_some(row.cost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: i64 = 1_795_255_200_000;

    fn read(from: &str, to: &str, group_by: &str, format: &str) -> Result<Question, Value> {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let asked = Asked { from: some(from), to: some(to), group_by: some(group_by), format: some(format) };
        asked
            .read(&Zone::named("Europe/Warsaw").unwrap(), NOW)
            .map_err(|error| error.body(false)["error"]["param"].clone())
    }

    fn span(from: &str, to: &str) -> (String, String) {
        let query = read(from, to, "", "").unwrap().query;
        (moment_as_text(query.from_ms), moment_as_text(query.to_ms))
    }

    #[test]
    fn times_are_moments_or_whole_days_of_the_zone() {
        for (from, to, begin, end) in [
            ("", "", "2026-11-20T10:00:00Z", "2026-11-21T10:00:00Z"),
            ("2026-11-01", "2026-11-01", "2026-10-31T23:00:00Z", "2026-11-01T23:00:00Z"),
            ("", "2026-11-01T00:00:00Z", "2026-10-31T00:00:00Z", "2026-11-01T00:00:00Z"),
            ("2026-11-01T01:00:00 01:00", "", "2026-11-01T00:00:00Z", "2026-11-21T10:00:00Z"),
        ] {
            assert_eq!(span(from, to), (begin.to_owned(), end.to_owned()), "{from} {to}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (from, to, group_by, format, param) in [
            ("yesterday", "", "", "", "from"),
            ("", "2026-13-01", "", "", "to"),
            ("2026-11-02", "2026-11-01", "", "", "from"),
            ("", "", "modle", "", "group_by"),
            ("", "", "ending", "", "group_by"),
            ("", "", "model,week", "", "group_by"),
            ("", "", "", "xml", "format"),
        ] {
            assert_eq!(read(from, to, group_by, format).unwrap_err(), json!(param), "{param}");
        }
        let by = read("", "", "model, day,model", "csv").unwrap().query.by;
        assert_eq!(by, [By::Model, By::Day]);
        let by = read("", "", "outcome,endpoint,prompt", "").unwrap().query.by;
        assert_eq!(by, [By::Outcome, By::Endpoint, By::Prompt]);
    }

    #[test]
    fn tables_are_quoted_and_run_nothing() {
        let row = |owner: &str| UsageRow {
            owner: Some(owner.to_owned()),
            requests: 2,
            input_tokens: 3,
            output_tokens: 4,
            cost: 0.5,
            ..UsageRow::default()
        };
        let rows = [row("a \"b\", c"), row("=1+1"), UsageRow::default()];
        let table = table(&columns(&["owner", "model"]), &rows.map(UsageRowBody::from));
        let lines: Vec<&str> = table.split("\r\n").collect();
        assert!(lines[0].starts_with("owner,model,requests,prompt_tokens,completion_tokens,total_tokens,"));
        assert_eq!(lines[1], "\"a \"\"b\"\", c\",,2,3,4,7,0,0,0.5,0,0,0,0,0");
        assert!(lines[2].starts_with("'=1+1,"), "{}", lines[2]);
        assert!(lines[3].starts_with(",,0,"), "{}", lines[3]);
        assert_eq!(lines[4], "");
    }
}
