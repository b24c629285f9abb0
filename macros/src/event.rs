//! `#[derive(Event)]`.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{Data, DeriveInput, Error, LitStr, Path, Result};

use crate::attribute::{self, Key};

const KEYS: [Key; 3] =
    [("kind", "kind = \"trial.ending\""), ("aliases", "aliases(\"trial.ends\")"), ("crate", "crate = \"dawdle\"")];

/// Kinds that Dawdle gives to messages of its own.
const RESERVED: &str = "dawdle.";

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    if let Data::Union(union) = &input.data {
        let text = "an event is a struct or an enum; a union cannot be serialized";
        return Err(Error::new(union.union_token.span, text));
    }
    if !input.generics.params.is_empty() {
        let text = "an event has no generics and no lifetimes: it is decoded by its kind alone, \
                    which can stand for one type only; own the data and name the types";
        return Err(Error::new_spanned(&input.generics, text));
    }
    let Names { kind, aliases, krate } = names(input)?;
    let ident = &input.ident;
    let typed = quote_spanned! {ident.span()=> impl #krate::TypedEvent for #ident };
    Ok(quote! {
        const _: () = {
            // The attribute's own output begins with `typetag::`.
            use #krate::__private::typetag;

            #[typetag::serde(name = #kind)]
            impl #krate::Event for #ident {
                fn kind(&self) -> &'static str {
                    #kind
                }
            }

            #[automatically_derived]
            #typed {
                const KIND: &'static str = #kind;
                const ALIASES: &'static [&'static str] = &[#(#aliases),*];
            }

            #krate::__private::inventory::submit! {
                #krate::__private::EventRegistration {
                    kind: #kind,
                    aliases: &[#(#aliases),*],
                    type_id: ::core::any::TypeId::of::<#ident>,
                    type_name: ::core::any::type_name::<#ident>,
                    place: #krate::Place { file: ::core::file!(), line: ::core::line!() },
                }
            }
        };
    })
}

struct Names {
    kind: LitStr,
    aliases: Vec<LitStr>,
    krate: Path,
}

fn names(input: &DeriveInput) -> Result<Names> {
    let mut kind = None;
    let mut aliases = Vec::new();
    let mut krate = attribute::default_crate();
    attribute::helper_attributes(&input.attrs, "event", &KEYS, |key, entry| {
        match key {
            "kind" => kind = Some(entry.text()?),
            "aliases" => aliases = entry.texts()?,
            _ => krate = attribute::crate_path(&entry)?,
        }
        Ok(())
    })?;
    let Some(kind) = kind else {
        let text = format!(
            "the wire name is required: types get renamed, queued events do not; write `#[event(kind = \"{}\")]`",
            suggested_kind(&input.ident.to_string()),
        );
        return Err(Error::new(input.ident.span(), text));
    };
    for name in std::iter::once(&kind).chain(&aliases) {
        attribute::check_name("a kind", name)?;
        if name.value().starts_with(RESERVED) {
            let text = format!("kinds that begin with `{RESERVED}` are Dawdle's own; choose another");
            return Err(Error::new(name.span(), text));
        }
    }
    attribute::check_aliases(&kind.value(), &aliases)?;
    Ok(Names { kind, aliases, krate })
}

/// `TrialEnding` as `trial.ending`.
fn suggested_kind(ident: &str) -> String {
    let mut kind = String::new();
    for c in ident.trim_start_matches("r#").chars() {
        if c.is_uppercase() && !kind.is_empty() {
            kind.push('.');
        }
        kind.extend(c.to_lowercase());
    }
    kind
}
