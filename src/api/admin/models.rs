//! Models, switched off and on by whoever has the admin key.

use std::collections::HashMap;
use std::sync::Arc;

use poem::Request;
use poem_openapi::OpenApi;

use super::admin_at;
use crate::accounts::SwitchEdit;
use crate::api::body::JsonBody;
use crate::api::context::Context;
use crate::api::error::ApiError;
use crate::api::payload::Json;
use crate::api::query::only_known;
use crate::api::schema::{ServedBy, SwitchBody, SwitchedModel, SwitchedModelList};
use crate::api::{Tag, dto, rest_of_path};
use crate::callers::moment_as_text;
use crate::gateway::{GatewayError, State};
use crate::router::Route;
use crate::store::ModelSwitch;
use crate::wire::Invalid;

/// Models that are off and on.
pub(in crate::api) struct ModelsApi {
    pub(in crate::api) context: Arc<Context>,
}

#[OpenApi(tag = "Tag::Admin")]
impl ModelsApi {
    /// Models, on and off
    ///
    /// All models, whether they are switched off, since when, and who serves them.
    #[oai(path = "/admin/models", method = "get", operation_id = "list_switched_models")]
    async fn list(&self, request: &Request) -> Result<Json<SwitchedModelList>, ApiError> {
        only_known(request, &[])?;
        let switches = self.context.accounts()?.models().await?;
        let mut switches: HashMap<String, ModelSwitch> =
            switches.into_iter().map(|switch| (switch.model.clone(), switch)).collect();
        let state = self.context.gateway.state();
        let routes = state.routes.on_and_off().iter();
        let mut models: Vec<SwitchedModel> = routes
            .map(|route| {
                let never = || ModelSwitch { model: route.model.to_string(), ..ModelSwitch::default() };
                pictured(switches.remove(&*route.model).unwrap_or_else(never), Some(&**route))
            })
            .collect();
        let mut gone: Vec<ModelSwitch> = switches.into_values().filter(|switch| switch.disabled).collect();
        gone.sort_by(|one, other| one.model.cmp(&other.model));
        models.extend(gone.into_iter().map(|switch| pictured(switch, None)));
        Ok(Json(SwitchedModelList { models }))
    }

    /// Switch a model
    ///
    /// Off, it is listed nowhere and answers nobody: `model_disabled`, status 404. Requests under way end as they were. It
    /// holds at once here, within a second for all services on the same database, and stays when they start again or read
    /// their configuration anew. A model is named by any of its names, which may hold slashes; the answer tells which one
    /// was switched. A name that is exactly that of a model which is off and not served any more is that model's.
    #[oai(path = "/admin/models/*name", method = "patch", operation_id = "switch_model")]
    async fn switch(
        &self,
        request: &Request,
        body: JsonBody<SwitchBody>,
    ) -> Result<Json<SwitchedModel>, ApiError> {
        only_known(request, &[])?;
        let accounts = self.context.accounts()?;
        let object = dto::object(body.bytes)?;
        let body: SwitchBody = dto::read(object.text())?;
        if body.disabled.is_none() && object.get("note").is_none() {
            return Err(Invalid::missing("disabled").into());
        }
        let note = object.get("note").map(|_| body.note);
        let edit = SwitchEdit { disabled: body.disabled, note };
        let name = rest_of_path(request);
        let route = meant(&self.context.gateway.state(), &name, &accounts.models().await?)?;
        let model = route.as_ref().map_or(&*name, |route| &route.model);
        let switch = accounts.switch(admin_at(request), model, edit).await?;
        Ok(Json(pictured(switch, route.as_deref())))
    }
}

/// The model that is meant; none that is served, if it is one that was off before the configuration lost it: then its
/// switch is all there is of it. Its own name is its own, also where requests of that name reach another one now.
fn meant(state: &State, name: &str, switches: &[ModelSwitch]) -> Result<Option<Arc<Route>>, GatewayError> {
    let is_gone = !state.routes.on_and_off().iter().any(|route| *route.model == *name);
    let switch = switches.iter().find(|switch| switch.model == name);
    if is_gone && switch.is_some_and(|switch| switch.disabled) {
        return Ok(None);
    }
    match named(state, name) {
        Ok(route) => Ok(Some(route)),
        Err(_) if switch.is_some() => Ok(None),
        Err(unknown) => Err(unknown),
    }
}

/// The model of a name. The one that stands for all of them is none.
fn named(state: &State, name: &str) -> Result<Arc<Route>, GatewayError> {
    let route = state.on_or_off(name)?;
    let is_one = state.routes.on_and_off().iter().any(|one| Arc::ptr_eq(one, &route));
    let unknown = || GatewayError::UnknownModel { name: name.to_owned(), nearest: None };
    is_one.then_some(route).ok_or_else(unknown)
}

fn pictured(switch: ModelSwitch, route: Option<&Route>) -> SwitchedModel {
    let deployments = route.iter().flat_map(|route| route.all_deployments()).map(|deployment| ServedBy {
        provider: deployment.provider_name.to_string(),
        upstream: deployment.upstream_model.to_string(),
        priority: deployment.priority,
    });
    SwitchedModel {
        name: switch.model,
        aliases: route.map(|route| route.aliases.clone()).unwrap_or_default(),
        disabled: switch.disabled,
        since: switch.since_ms.map(moment_as_text),
        note: switch.note,
        served: route.is_some(),
        deployments: deployments.collect(),
    }
}
