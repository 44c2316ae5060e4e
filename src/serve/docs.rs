//! The description of the API, and the pages that show it.

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::response::Response as ResponseDoc;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, ContentBuilder, ObjectBuilder, OpenApi as Description, Ref, RefOr, ResponseBuilder, Type};
use utoipa::{IntoResponses, OpenApi};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::error::{Code, returns_later};
use super::wire::Problem;
use super::{AppState, Server};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "bignas",
        description = "One trained single-stage model (BigNAS), every network inside it within any budget.\n\n\
            Send an image and a budget in multiply-adds, parameters or milliseconds; the most accurate network within it \
            answers. Errors are problem documents (RFC 9457) with a stable `code`. Every response carries `x-request-id`, \
            the client's own where it sends a sensible one.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    components(schemas(Problem)),
    tags(
        (name = "classify", description = "Images in, labels out."),
        (name = "children", description = "The networks that can answer."),
        (name = "model", description = "The model that they are cut from."),
        (name = "operation", description = "For orchestrators and monitoring.")
    )
)]
struct Base;

/// The description without its routes.
pub(super) fn base() -> Description {
    let mut description = Base::openapi();
    let key = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("The admin key that the server was started with; needed wherever it has one, and beyond loopback."));
    let components = description.components.get_or_insert_with(Components::new);
    components.add_security_scheme("admin_key", SecurityScheme::Http(key.build()));
    description
}

/// The page that shows the description.
pub(super) fn pages() -> Router<Server> {
    Router::from(SwaggerUi::new("/docs").config(Config::new(["/openapi.json"])))
}

/// This description
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "operation",
    responses((status = 200, description = "The description of the API (OpenAPI 3.1).", body = Object, content_type = "application/json"), NoProblems)
)]
pub(super) async fn openapi_json(State(state): State<AppState>) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], state.openapi.clone()).into_response()
}

/// Declares, for a kind of route, the problems that it can answer with.
macro_rules! problems {
    ($($name:ident: $($code:ident)*;)*) => {
        $(
            pub(super) struct $name;

            impl IntoResponses for $name {
                fn responses() -> BTreeMap<String, RefOr<ResponseDoc>> {
                    // Whatever the route: the server may fail, be slow, or be asked with the wrong method.
                    describe(&[$(Code::$code,)* Code::MethodNotAllowed, Code::Internal, Code::Timeout])
                }
            }
        )*
    };
}

problems! {
    ClassifyProblems: InvalidRequest InvalidBudget EmptyBody InvalidImage UnknownChild BodyTimeout BodyTooLarge ImageTooLarge
        TooManyImages UnsupportedMediaType BudgetTooSmall AccuracyOutOfReach Overloaded BuildFailed NoCalibration NotReady ShuttingDown DeadlineExceeded;
    ListProblems: InvalidRequest InvalidBudget;
    ChildProblems: UnknownChild;
    ExampleProblems: UnknownExample;
    OnnxProblems: UnknownChild Overloaded BuildFailed NoCalibration ShuttingDown;
    AddProblems: InvalidRequest EmptyBody Unauthorized Forbidden BodyTimeout BodyTooLarge UnsupportedMediaType TooManyChildren BeingReplaced
        OutsideSpace Overloaded BuildFailed NoCalibration;
    RemoveProblems: Unauthorized Forbidden UnknownChild FamilyMember BeingReplaced;
    ReadyProblems: NotReady ShuttingDown;
    ReloadProblems: Unauthorized Forbidden ReloadRefused InvalidModel;
    MetricsProblems: ;
    NoProblems: ;
}

/// One response for each status among `codes`, with an example for each code.
fn describe(codes: &[Code]) -> BTreeMap<String, RefOr<ResponseDoc>> {
    let mut by_status: BTreeMap<String, Vec<Code>> = BTreeMap::new();
    for &code in codes {
        by_status.entry(code.status().as_str().to_owned()).or_default().push(code);
    }
    by_status.into_iter().map(|(status, codes)| (status, respond(&codes).into())).collect()
}

fn respond(codes: &[Code]) -> ResponseDoc {
    let sentences: Vec<String> = codes.iter().map(|code| format!("`{}`: {}.", code.name(), code.title())).collect();
    let examples = codes.iter().map(|&code| (code.name(), example(code)));
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).examples_from_iter(examples).build();
    let response = ResponseBuilder::new().description(sentences.join(" ")).content("application/problem+json", content);
    if codes.iter().any(|&code| returns_later(code)) {
        let schema = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1_u32));
        let header = HeaderBuilder::new().schema(Some(schema)).description(Some("Seconds after which to try again.")).build();
        return response.header("retry-after", header).build();
    }
    response.build()
}

fn example(code: Code) -> utoipa::openapi::example::Example {
    let problem = Problem::new(code, "What is wrong with this request, and what to do about it.".to_owned());
    let value = serde_json::to_value(problem).ok();
    utoipa::openapi::example::ExampleBuilder::new().summary(code.title()).value(value).build()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::Value;

    use super::super::openapi;
    use super::*;

    #[test]
    fn every_route_is_described_and_every_code_is_documented_where_it_occurs() {
        let description = serde_json::to_value(openapi()).unwrap();
        let paths: Vec<&String> = description["paths"].as_object().unwrap().keys().collect();
        let expected = [
            "/children",
            "/children/{id}",
            "/children/{id}/model.onnx",
            "/classify",
            "/healthz",
            "/metrics",
            "/model",
            "/model/examples/{file}",
            "/model/reload",
            "/openapi.json",
            "/readyz",
        ];
        assert_eq!(paths, expected);

        let text = description.to_string();
        // The one code that belongs to no route.
        let undocumented: HashSet<&str> =
            Code::ALL.iter().map(|code| code.name()).filter(|name| !text.contains(&format!("`{name}`: "))).collect();
        assert_eq!(undocumented, HashSet::from([Code::UnknownRoute.name()]));
    }

    #[test]
    fn everything_refered_to_exists_and_everything_has_a_description() {
        let description = serde_json::to_value(openapi()).unwrap();
        let mut references = HashSet::new();
        collect_references(&description, &mut references);
        assert!(!references.is_empty());
        for reference in references {
            assert!(description.pointer(reference.trim_start_matches('#')).is_some(), "{reference} does not exist");
        }
        for (path, operations) in description["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                assert!(operation["summary"].is_string(), "{method} {path} lacks a summary");
                assert!(operation["responses"]["500"].is_object(), "{method} {path} lacks 500");
                for (status, response) in operation["responses"].as_object().unwrap() {
                    let says_when = response["headers"]["retry-after"].is_object();
                    assert_eq!(says_when, ["429", "503"].contains(&status.as_str()), "Retry-After of {method} {path}: {status}");
                }
            }
        }
    }

    fn collect_references(value: &Value, references: &mut HashSet<String>) {
        match value {
            Value::Object(members) => {
                references.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
                members.values().for_each(|member| collect_references(member, references));
            }
            Value::Array(items) => items.iter().for_each(|item| collect_references(item, references)),
            _ => {}
        }
    }
}
