//! Names that lead nowhere, and those that were perhaps meant.

use poem::http::StatusCode;

use super::ApiError;
use crate::llm::shortened;

impl ApiError {
    /// There is nothing at this path.
    pub(in crate::api) fn unknown_path(path: &str, nearest: Option<&str>) -> Self {
        let meant = nearest.map(|path| format!("; did you mean `{path}`?")).unwrap_or_default();
        let message = format!("there is nothing at `{}`{meant}", shortened(path));
        Self::new(StatusCode::NOT_FOUND, "unknown_path", message)
    }
}

/// There is something at this path, for other methods.
pub(in crate::api) fn method_not_allowed() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path does not take this method")
}
