//! Callers' keys, for whoever has the admin key.

use std::sync::Arc;
use std::time::Duration;

use poem::Request;
use poem_openapi::OpenApi;
use poem_openapi::param::Path;

use super::admin_at;
use crate::accounts::{DEFAULT_GRACE, Edit, LimitsEdit};
use crate::api::Tag;
use crate::api::body::JsonBody;
use crate::api::context::Context;
use crate::api::dto;
use crate::api::error::ApiError;
use crate::api::payload::{Json, ToldOnce};
use crate::api::query::{Query, only_known};
use crate::api::schema::{DeletedKey, KeyBody, KeyChangeBody, KeyList, NewKeyBody, RotationBody, SecretBody};
use crate::callers::{Change, Key, Limits, NewKey, Secret, moment};
use crate::llm::RawObject;
use crate::wire::Invalid;

/// Callers' keys.
pub(in crate::api) struct KeysApi {
    pub(in crate::api) context: Arc<Context>,
}

#[OpenApi(tag = "Tag::Admin")]
impl KeysApi {
    /// New key
    ///
    /// Makes a key, which opens at once. Its secret is told in this answer and never again.
    #[oai(path = "/admin/keys", method = "post", operation_id = "create_key")]
    async fn create(
        &self,
        request: &Request,
        body: JsonBody<NewKeyBody>,
    ) -> Result<ToldOnce<SecretBody>, ApiError> {
        let accounts = self.context.accounts()?;
        let object = dto::object(body.bytes)?;
        let body: NewKeyBody = dto::read(object.text())?;
        let (name, limits) = (body.name.clone(), body.limits.clone().map(Limits::from));
        let Edit { change, .. } = edit_of(&object, body.into())?;
        let change = Change { limits, ..change };
        let (key, secret) = accounts.create(admin_at(request), NewKey { name, change }).await?;
        Ok(told_once(&key, &secret))
    }

    /// Keys
    ///
    /// All keys, or those of one owner.
    #[oai(path = "/admin/keys", method = "get", operation_id = "list_keys")]
    async fn list(
        &self,
        request: &Request,
        /// Only those of this owner.
        owner: Query<Option<String>>,
    ) -> Result<Json<KeyList>, ApiError> {
        only_known(request, &["owner"])?;
        let keys = self.context.accounts()?.list(owner.0.as_deref()).await?;
        Ok(Json(KeyList { keys: keys.iter().map(KeyBody::from).collect() }))
    }

    /// A key
    #[oai(path = "/admin/keys/:id", method = "get", operation_id = "get_key")]
    async fn get(
        &self,
        /// The key's id.
        id: Path<String>,
    ) -> Result<Json<KeyBody>, ApiError> {
        let key = self.context.accounts()?.get(&id.0).await?;
        Ok(Json(KeyBody::from(&key)))
    }

    /// Change a key
    ///
    /// What is left out stays as it is, null takes it away. The change holds at once.
    #[oai(path = "/admin/keys/:id", method = "patch", operation_id = "change_key")]
    async fn change(
        &self,
        request: &Request,
        /// The key's id.
        id: Path<String>,
        body: JsonBody<KeyChangeBody>,
    ) -> Result<Json<KeyBody>, ApiError> {
        let accounts = self.context.accounts()?;
        let object = dto::object(body.bytes)?;
        let edit = edit_of(&object, dto::read(object.text())?)?;
        let key = accounts.change(admin_at(request), &id.0, edit).await?;
        Ok(Json(KeyBody::from(&key)))
    }

    /// Delete a key
    ///
    /// It opens nothing any more. What it used is remembered.
    #[oai(path = "/admin/keys/:id", method = "delete", operation_id = "delete_key")]
    async fn delete(
        &self,
        request: &Request,
        /// The key's id.
        id: Path<String>,
    ) -> Result<Json<DeletedKey>, ApiError> {
        self.context.accounts()?.delete(admin_at(request), &id.0).await?;
        Ok(Json(DeletedKey { id: id.0, deleted: true }))
    }

    /// New secret
    ///
    /// Gives the key another secret, which is told in this answer and never again. The one before opens for
    /// `grace_seconds` yet.
    #[oai(path = "/admin/keys/:id/rotate", method = "post", operation_id = "rotate_key")]
    async fn rotate(
        &self,
        request: &Request,
        /// The key's id.
        id: Path<String>,
        body: JsonBody<Option<RotationBody>>,
    ) -> Result<ToldOnce<SecretBody>, ApiError> {
        let accounts = self.context.accounts()?;
        let grace = grace_of(&body)?;
        let (key, secret) = accounts.rotate(admin_at(request), &id.0, grace).await?;
        Ok(told_once(&key, &secret))
    }
}

/// A key with its secret.
pub(in crate::api) fn told_once(key: &Key, secret: &Secret) -> ToldOnce<SecretBody> {
    ToldOnce(SecretBody { key: secret.reveal().to_owned(), about: KeyBody::from(key) })
}

/// How long the secret before is to open yet. Nothing need be said.
pub(in crate::api) fn grace_of(body: &JsonBody<Option<RotationBody>>) -> Result<Duration, ApiError> {
    if body.bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(DEFAULT_GRACE);
    }
    let object = dto::object(body.bytes.clone())?;
    let body: RotationBody = dto::read(object.text())?;
    Ok(body.grace_seconds.map_or(DEFAULT_GRACE, Duration::from_secs))
}

/// What a body says: a member that is there and null is another thing than one that is not there.
fn edit_of(object: &RawObject, body: KeyChangeBody) -> Result<Edit, ApiError> {
    let is_said = |name: &str| object.get(name).is_some();
    if is_said("name") && body.name.is_none() {
        return Err(Invalid::value("name", "`name` must be a text: a key cannot be without one").into());
    }
    let expires_ms = body.expires_at.as_deref().map(|text| {
        let must = "`expires_at` must be a time such as 2026-12-31T18:00:00Z, or a date";
        moment(text).ok_or_else(|| ApiError::invalid("expires_at", must))
    });
    let expires_ms = expires_ms.transpose()?;
    let mut limits = LimitsEdit::default();
    if let Some(said) = &body.limits {
        let members = object.get("limits").map(bytes::Bytes::copy_from_slice).unwrap_or_default();
        let members = RawObject::parse(members).map_err(Invalid::from)?;
        let of = |name: &str, value: Option<u64>| members.get(name).map(|_| value);
        limits = LimitsEdit {
            requests_per_minute: of("requests_per_minute", said.requests_per_minute),
            tokens_per_minute: of("tokens_per_minute", said.tokens_per_minute),
            parallel_requests: of("parallel_requests", said.parallel_requests),
        };
    }
    let change = Change {
        name: body.name,
        owner: is_said("owner").then_some(body.owner),
        expires_ms: is_said("expires_at").then_some(expires_ms),
        disabled: is_said("disabled").then_some(body.disabled.unwrap_or_default()),
        allowed_models: is_said("allowed_models").then_some(body.allowed_models.unwrap_or_default()),
        allowed_endpoints: is_said("allowed_endpoints").then_some(body.allowed_endpoints.unwrap_or_default()),
        language: is_said("language").then_some(body.language),
        limits: (is_said("limits") && body.limits.is_none()).then(Default::default),
        budget: is_said("budget").then(|| body.budget.map(Into::into)),
        note: is_said("note").then_some(body.note),
    };
    Ok(Edit { change, limits })
}
