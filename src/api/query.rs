//! Parameters behind the question mark. (poem-openapi's own are read from what its service leaves with a request, and
//! there is no such service here: see `paths`.)

use poem::{Request, RequestBody};
use poem_openapi::error::ParseParamError;
use poem_openapi::registry::{MetaParamIn, MetaSchemaRef, Registry};
use poem_openapi::types::ParseFromParameter;
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};

use super::error::ApiError;

/// Parameters with a comma list. Many clients write such a list as several parameters of one name.
const LISTS: &[&str] = &["group_by"];

/// A parameter by the name of its argument.
pub(super) struct Query<T>(pub(super) T);

impl<'a, T: ParseFromParameter> ApiExtractor<'a> for Query<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    const PARAM_IS_REQUIRED: bool = T::IS_REQUIRED;

    type ParamType = T;
    type ParamRawType = T::RawValueType;

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Query)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(T::schema_ref())
    }

    fn param_raw_type(&self) -> Option<&T::RawValueType> {
        self.0.as_raw_value()
    }

    async fn from_request(
        request: &'a Request,
        _body: &mut RequestBody,
        options: ExtractParamOptions<T>,
    ) -> poem::Result<Self> {
        let name = options.name;
        let pairs = pairs(request)?;
        let values: Vec<&str> =
            pairs.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect();
        let parsed = match &values[..] {
            [] | [_] => T::parse_from_parameters(values),
            _ if LISTS.contains(&name) => T::parse_from_parameters([values.join(",")]),
            _ => {
                let message = format!("`{name}` stands in the query more than once; write it once");
                return Err(ApiError::invalid(name, message).into());
            }
        };
        Ok(Self(parsed.map_err(|error| ParseParamError { name, reason: error.into_message() })?))
    }
}

/// # Errors
/// The query holds a name that nobody here knows. Who asks with a slip in a name wants something else than what
/// would be done without it.
pub(super) fn only_known(request: &Request, known: &[&str]) -> Result<(), ApiError> {
    if pairs(request)?.iter().all(|(name, _)| known.contains(&name.as_str())) {
        return Ok(());
    }
    let message = format!("the query holds a name that is not known here; known is {}", known.join(", "));
    Err(ApiError::invalid("query", message))
}

fn pairs(request: &Request) -> Result<Vec<(String, String)>, ApiError> {
    request.params().map_err(|_| ApiError::invalid("query", "the query cannot be read"))
}
