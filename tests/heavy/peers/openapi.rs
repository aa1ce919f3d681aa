//! The description of the admin interface, by a validator of OpenAPI 3.1 (openapi-spec-validator).

use std::path::Path;

use tower_sticky_heavy_tests::in_time;

use crate::python;

#[tokio::test]
async fn the_description_of_the_admin_interface_is_valid() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src/admin/openapi.json");
    let file = file.to_str().unwrap();
    let output = in_time("the validator ends", python::validate(file)).await;
    assert!(output.status.success(), "{output:?}");
}
