//! Any variables, any JSON or TOML table: a configuration that works, or an error that names what is wrong.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    dawdle::fuzzing::config_variables(text);
    dawdle::fuzzing::config_table(&mut serde_json::Deserializer::from_str(text));
    if let Ok(table) = toml::Deserializer::parse(text) {
        dawdle::fuzzing::config_table(table);
    }
});
