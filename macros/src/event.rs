//! `#[derive(Event)]`.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::{Data, DeriveInput, Error, Index, LitStr, Member, Path, Result};

use crate::attribute::{self, Key};

const KEYS: [Key; 5] = [
    ("kind", "kind = \"trial.ending\""),
    ("aliases", "aliases(\"trial.ends\")"),
    ("key", "key = \"{account}-{month}\""),
    ("pack", "pack"),
    ("crate", "crate = \"dawdle\""),
];

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
    let Names { kind, aliases, key, packs, krate } = names(input)?;
    let key = key.map(|key| dedup_key(input, &key)).transpose()?;
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
                #key
            }

            #krate::__private::inventory::submit! {
                #krate::__private::EventRegistration {
                    kind: #kind,
                    aliases: &[#(#aliases),*],
                    packs: #packs,
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
    key: Option<LitStr>,
    packs: TokenStream,
    krate: Path,
}

fn names(input: &DeriveInput) -> Result<Names> {
    let mut kind = None;
    let mut aliases = Vec::new();
    let mut dedup = None;
    let mut packs = quote!(::core::option::Option::None);
    let mut krate = attribute::default_crate();
    attribute::helper_attributes(&input.attrs, "event", &KEYS, |key, entry| {
        match key {
            "kind" => kind = Some(entry.text()?),
            "aliases" => aliases = entry.texts()?,
            "key" => dedup = Some(entry.text()?),
            "pack" => {
                let yes = entry.flag()?;
                packs = quote!(::core::option::Option::Some(#yes));
            }
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
    Ok(Names { kind, aliases, key: dedup, packs, krate })
}

/// The method that makes the key of `"{account}-{month}"`, or of `"account"`, a field alone.
fn dedup_key(input: &DeriveInput, key: &LitStr) -> Result<TokenStream> {
    let wrong = |text: String| Err(Error::new(key.span(), text));
    let Data::Struct(data) = &input.data else {
        return wrong("the variants of an enum share no fields: give the key when signalling, by `.key(..)`".into());
    };
    let written = key.value();
    let alone = !written.is_empty() && !written.contains(['{', '}']);
    let pieces = if alone { vec![Piece::Field(written)] } else { pieces(key)? };
    let (mut format, mut values) = (String::new(), Vec::new());
    for piece in pieces {
        let name = match piece {
            Piece::Text(text) => {
                format.push_str(&text.replace('{', "{{").replace('}', "}}"));
                continue;
            }
            Piece::Field(name) => name,
        };
        let fields: Vec<Member> = data.fields.members().collect();
        let Some(field) = fields.iter().find(|field| named(field) == name) else {
            let ident = &input.ident;
            let Some(first) = fields.first().map(named) else {
                return wrong(format!("`{ident}` has no fields to make a key of; remove `key`"));
            };
            let all: Vec<String> = fields.iter().map(|field| format!("`{}`", named(field))).collect();
            return wrong(format!(
                "`{ident}` has no field `{name}`; name one of {}, as in `key = \"{{{first}}}\"`",
                all.join(", ")
            ));
        };
        format.push_str("{}");
        values.push(quote_spanned!(key.span()=> &self.#field));
    }
    if values.is_empty() {
        return wrong(
            "a key without a field is one key for all events: name a field, as in `key = \"{account}\"`".into(),
        );
    }
    Ok(quote_spanned! {key.span()=>
        fn dedup_key(&self) -> ::core::option::Option<::std::string::String> {
            ::core::option::Option::Some(::std::format!(#format, #(#values),*))
        }
    })
}

enum Piece {
    Text(String),
    Field(String),
}

/// The text and the fields of a key, told apart by braces.
fn pieces(key: &LitStr) -> Result<Vec<Piece>> {
    let wrong = |text: &str| Error::new(key.span(), text);
    let written = key.value();
    let mut pieces = Vec::new();
    let mut rest = written.as_str();
    while let Some(at) = rest.find(['{', '}']) {
        pieces.push(Piece::Text(rest[..at].to_owned()));
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("{{").or_else(|| rest.strip_prefix("}}")) {
            pieces.push(Piece::Text(rest[..1].to_owned()));
            rest = after;
            continue;
        }
        let Some((field, after)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
            return Err(wrong(
                "a brace has no partner: a field is `{field}`, and a brace of the key itself is `{{` or `}}`",
            ));
        };
        if field.is_empty() || field.contains(|c: char| !c.is_alphanumeric() && c != '_') {
            let text =
                "between braces stands the name of a field and nothing else, as in `key = \"{account}-{month}\"`";
            return Err(wrong(text));
        }
        pieces.push(Piece::Field(field.to_owned()));
        rest = after;
    }
    pieces.push(Piece::Text(rest.to_owned()));
    Ok(pieces)
}

/// A field's name as a key has it: that of a tuple is its number.
fn named(field: &Member) -> String {
    match field {
        Member::Named(ident) => ident.unraw().to_string(),
        Member::Unnamed(Index { index, .. }) => index.to_string(),
    }
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
