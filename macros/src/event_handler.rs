//! `#[derive(EventHandler)]`.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{DeriveInput, Error, Result, Type};

use crate::attribute::{self, Key};
use crate::options::{self, Options, Wanted};

const EVENT: Key = ("event", "event = MyEvent");

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    if !input.generics.params.is_empty() {
        let text = "a handler has no generics and no lifetimes: nothing would choose the types; \
                    name them, or keep what differs in a `Box<dyn Trait>`";
        return Err(Error::new_spanned(&input.generics, text));
    }
    let (event, options) = options(input)?;
    let wanted = Wanted::of(&event)?;
    let describe = options.registration(&input.ident, &wanted)?;
    let krate = &options.krate;
    let ident = options::emitted(&input.ident);
    // An error about what the type does not implement points at its name.
    let this = quote_spanned!(ident.span()=> Self);
    let run = match &wanted {
        Wanted::Typed(event) => quote!(run_typed::<#this, #event>),
        Wanted::All => quote!(run_all::<#this>),
    };
    let linked = options::linked(
        krate,
        &ident,
        &quote! {
            use #krate::__private::{MakeDefault as _, MakeNone as _};
            // Method lookup tries `MakeDefault` first, and passes it over where `Self` has no default.
            match (&&#krate::__private::Maker::<Self>(::core::marker::PhantomData)).make() {
                ::core::option::Option::Some(handler) => #krate::EventHandler::into_registration(handler),
                ::core::option::Option::None => <Self as #krate::EventHandler>::describe(),
            }
        },
    );
    Ok(quote! {
        #[automatically_derived]
        impl #krate::EventHandler for #ident {
            fn describe() -> #krate::Registration {
                #describe
            }

            fn into_registration(self) -> #krate::Registration {
                <Self as #krate::EventHandler>::describe().#run(self)
            }
        }

        #linked
    })
}

fn options(input: &DeriveInput) -> Result<(Type, Options)> {
    let keys: Vec<Key> = std::iter::once(EVENT).chain(options::KEYS).collect();
    let mut options = Options::default();
    let mut event = None;
    attribute::helper_attributes(&input.attrs, "handler", &keys, |key, entry| match key {
        "event" => {
            event = Some(entry.value::<Type>()?);
            Ok(())
        }
        _ => options.take(key, &entry),
    })?;
    let Some(event) = event else {
        let text = "name the event that it handles: `#[handler(event = MyEvent)]`, \
                    or `#[handler(event = dyn Event)]` for every event";
        return Err(Error::new(input.ident.span(), text));
    };
    Ok((event, options))
}
