//! The description of the HTTP interface in `openapi/` is the one that the code gives.

use std::path::Path;

#[test]
fn the_description_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/openapi.json");
    let written = std::fs::read_to_string(path).unwrap_or_default();
    let generated = bignas::serve::openapi().to_pretty_json().unwrap() + "\n";
    let line = written.lines().zip(generated.lines()).position(|(old, new)| old != new);
    assert!(
        written == generated,
        "openapi/openapi.json differs from the code, first in line {}; run `make openapi` and look at the difference",
        line.map_or_else(|| written.lines().count().min(generated.lines().count()) + 1, |line| line + 1)
    );
}
