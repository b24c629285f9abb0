//! What the macros refuse, and that each error points at the user's token and names the repair.

#[test]
fn errors_name_the_repair() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
