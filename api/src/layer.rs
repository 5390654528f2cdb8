//! `/whep/{stream}/{secret}/layer`: layer preference of a viewer (WHEP extension `core:layer`).
//!
//! POST sets the preference for one video section, DELETE returns to the automatic choice. GET
//! shows the layers as the `layers` event does; the extension has no such GET. The media plane
//! decides what follows from a preference: [`weir_sfu::net::Signalling::select_layer`].

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};
use weir_sfu::net::LayerPreference;

use crate::cors::ACCEPT_POST;
use crate::error::Problem;
use crate::path::SessionUrl;
use crate::state::AppState;
use crate::{JSON, body, events};

/// Maximum POST body in bytes; a longer one is refused with 413.
const PREFERENCE_MAX: usize = 4 * 1024;
/// Maximum rid in characters; a longer one is refused with 400.
const RID_MAX: usize = 64;

/// `POST`: 200; the layer is switched at its next keyframe (whip-whep E9).
///
/// # Errors
/// 400, 404, 408, 413, 415, 422 or 503 as a [`Problem`].
pub async fn select(
    State(state): State<AppState>,
    url: SessionUrl,
    request: Request,
) -> Result<StatusCode, Problem> {
    let (parts, body) = request.into_parts();
    if !state.sfu.signalling().exists(url.role, &url.stream, &url.secret) {
        return Err(Problem::no_session());
    }
    if !body::is_type(&parts.headers, JSON) {
        let detail =
            "Content-Type must be application/json: POST a layer preference as a JSON object";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
            .with(ACCEPT_POST, HeaderValue::from_static(JSON)));
    }
    let body =
        body::read(&state.bodies, state.network(&parts), &parts.headers, body, PREFERENCE_MAX)
            .await?;
    let (media, preference) = parse(&body).map_err(|d| Problem::new(StatusCode::BAD_REQUEST, d))?;
    state
        .sfu
        .signalling()
        .select_layer(&url.stream, &url.secret, media.as_deref(), preference)
        .await?;
    Ok(StatusCode::OK)
}

/// `DELETE`: 200, and the automatic choice again. Clients use it; the extension does not have it
/// (whip-whep E9).
///
/// # Errors
/// 404 or 503 as a [`Problem`].
pub async fn unselect(
    State(state): State<AppState>,
    url: SessionUrl,
) -> Result<StatusCode, Problem> {
    state.sfu.signalling().unselect_layers(&url.stream, &url.secret).await?;
    Ok(StatusCode::OK)
}

/// `GET`: the layers by m-line, as the `layers` event has them.
///
/// # Errors
/// 404, 429 or 503 as a [`Problem`].
pub async fn look(State(state): State<AppState>, url: SessionUrl) -> Result<Response, Problem> {
    state.sfu.signalling().rate_limited_lookup(url.role, &url.stream, &url.secret)?;
    let layers = state.sfu.signalling().layers(&url.stream, &url.secret).await?;
    Ok(([(CACHE_CONTROL, "no-store")], Json(events::layers(&layers))).into_response())
}

/// Members of a preference.
const PREFERENCE: [&str; 9] = [
    "mediaId",
    "rid",
    "encodingId",
    "spatialLayerId",
    "temporalLayerId",
    "maxSpatialLayerId",
    "maxTemporalLayerId",
    "maxWidth",
    "maxHeight",
];

/// Members of an element of the `layers` event that are not in a preference: they describe the
/// layer and are ignored, so that a client may send the element as it is. Ours, then those of the
/// extension and of drafts before it.
const DESCRIPTION: [&str; 9] = [
    "bitrate",
    "width",
    "height",
    "active",
    "target",
    "targetBitrate",
    "heigth",
    "id",
    "simulcastIdx",
];

/// Refuses a member that is neither: a misspelled limit would silently limit nothing.
fn check_names(body: &Map<String, Value>) -> Result<(), String> {
    let known = |name: &str| PREFERENCE.contains(&name) || DESCRIPTION.contains(&name);
    match body.keys().find(|name| !known(name)) {
        None => Ok(()),
        Some(name) => {
            let known = PREFERENCE.join(", ");
            Err(format!("there is no {name:?} in a layer preference; it has {known}"))
        }
    }
}

/// Preference of a body and the section that it is for.
fn parse(body: &[u8]) -> Result<(Option<String>, LayerPreference), String> {
    let body: Map<String, Value> = serde_json::from_slice(body)
        .map_err(|error| format!("the body is not a JSON object: {error}"))?;
    check_names(&body)?;
    let media = match body.get("mediaId") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) => Some(name.clone()),
        Some(Value::Number(index)) => Some(index.to_string()),
        Some(_) => {
            return Err(
                "mediaId must be the index of an m-line or its mid, as a string or a number".into(),
            );
        }
    };
    let preference = LayerPreference {
        // Drafts before 2024 and the clients of that time call it `encodingId`.
        rid: rid(&body, "rid")?.or(rid(&body, "encodingId")?),
        spatial_layer: id(&body, "spatialLayerId")?,
        temporal_layer: id(&body, "temporalLayerId")?,
        max_spatial_layer: id(&body, "maxSpatialLayerId")?,
        max_temporal_layer: id(&body, "maxTemporalLayerId")?,
        max_width: pixels(&body, "maxWidth")?,
        max_height: pixels(&body, "maxHeight")?,
    };
    Ok((media, preference))
}

fn rid(body: &Map<String, Value>, name: &str) -> Result<Option<Box<str>>, String> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(rid)) if rid.is_empty() => Ok(None),
        Some(Value::String(rid)) if rid.chars().count() <= RID_MAX => Ok(Some(rid.as_str().into())),
        Some(_) => Err(format!("{name} must be a string of at most {RID_MAX} characters")),
    }
}

fn number(body: &Map<String, Value>, name: &str) -> Result<Option<u64>, String> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let number =
                value.as_u64().ok_or_else(|| format!("{name} must be a whole number, not {value}"));
            number.map(Some)
        }
    }
}

fn id(body: &Map<String, Value>, name: &str) -> Result<Option<u8>, String> {
    let number = number(body, name)?;
    let id =
        |number| u8::try_from(number).map_err(|_| format!("{name} must be 0 to 255, not {number}"));
    number.map(id).transpose()
}

/// A size in pixels; one above `u16::MAX` is larger than any picture and limits nothing.
fn pixels(body: &Map<String, Value>, name: &str) -> Result<Option<u16>, String> {
    match number(body, name)? {
        Some(0) => Err(format!("{name} must be at least 1")),
        number => Ok(number.map(|number| u16::try_from(number).unwrap_or(u16::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // whip-whep E9
    #[test]
    fn preferences_are_read_as_clients_write_them() {
        let read = |text: &str| parse(text.as_bytes());
        let automatic = LayerPreference::default();
        assert_eq!(read("{}"), Ok((None, automatic.clone())));
        for body in [r#"{"mediaId":"1"}"#, r#"{"mediaId":1}"#, r#"{"mediaId":"1","rid":null}"#] {
            assert_eq!(read(body), Ok((Some("1".into()), automatic.clone())), "{body}");
        }
        let (_, preference) =
            read(r#"{"mediaId":"1","rid":"h","spatialLayerId":2,"bitrate":5}"#).unwrap();
        assert_eq!((preference.rid.as_deref(), preference.spatial_layer), (Some("h"), Some(2)));
        let (_, preference) = read(r#"{"encodingId":"low"}"#).unwrap();
        assert_eq!(preference.rid.as_deref(), Some("low"));
        let (_, preference) = read(
            r#"{"maxWidth":1280,"maxHeight":100000,"maxSpatialLayerId":1,"maxTemporalLayerId":0,
                "temporalLayerId":2}"#,
        )
        .unwrap();
        let wanted = LayerPreference {
            max_width: Some(1280),
            max_height: Some(u16::MAX),
            max_spatial_layer: Some(1),
            max_temporal_layer: Some(0),
            temporal_layer: Some(2),
            ..automatic
        };
        assert_eq!(preference, wanted);
    }

    #[test]
    fn a_bad_preference_is_refused_by_the_name_of_its_member() {
        let long = format!(r#"{{"rid":"{}"}}"#, "r".repeat(RID_MAX + 1));
        for (body, named) in [
            ("", "JSON"),
            ("[]", "JSON"),
            (r#""h""#, "JSON"),
            (r#"{"mediaId":["1"]}"#, "mediaId"),
            (r#"{"rid":1}"#, "rid"),
            (&long, "rid"),
            (r#"{"maxHeight":0}"#, "maxHeight"),
            (r#"{"maxWidth":-1}"#, "maxWidth"),
            (r#"{"maxWidth":"1"}"#, "maxWidth"),
            (r#"{"spatialLayerId":256}"#, "spatialLayerId"),
            (r#"{"maxTemporalLayerId":1.5}"#, "maxTemporalLayerId"),
            (r#"{"maxheight":360}"#, "\"maxheight\""),
            (r#"{"mediaId":"1","layer":"h"}"#, "\"layer\""),
        ] {
            let refused = parse(body.as_bytes()).unwrap_err();
            assert!(refused.contains(named), "{body}: {refused}");
        }
        let longest = format!(r#"{{"rid":"{}"}}"#, "r".repeat(RID_MAX));
        assert!(parse(longest.as_bytes()).is_ok());
    }
}
