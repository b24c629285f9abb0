//! The macros of [dawdle](https://docs.rs/dawdle); use them through that crate.

mod attribute;
mod event;
mod event_handler;
mod handler;
mod options;

use proc_macro::TokenStream;
use syn::{DeriveInput, Error, Result, parse_macro_input};

/// x
#[proc_macro_derive(Event, attributes(event))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    or_error(event::expand(&input))
}

/// x
#[proc_macro_attribute]
pub fn handler(args: TokenStream, item: TokenStream) -> TokenStream {
    let mut output = item.clone();
    output.extend(or_error(handler::expand(args.into(), item.into())));
    output
}

/// x
#[proc_macro_derive(EventHandler, attributes(handler))]
pub fn derive_event_handler(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    or_error(event_handler::expand(&input))
}

fn or_error(output: Result<proc_macro2::TokenStream>) -> TokenStream {
    output.unwrap_or_else(Error::into_compile_error).into()
}
