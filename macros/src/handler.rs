//! `#[dawdle::handler]`.

use proc_macro2::{Ident, Span, TokenStream};
use quote::quote;
use syn::parse::{ParseStream, Parser};
use syn::{Error, FnArg, GenericParam, ItemFn, Path, Result, ReturnType, Safety, Signature, Type};

use crate::attribute;
use crate::options::{self, Options, Wanted};

pub(crate) fn expand(args: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let function: ItemFn = syn::parse2(item).map_err(|error| {
        let text = "`#[dawdle::handler]` goes on an `async fn`; for a type write `#[derive(dawdle::EventHandler)]`";
        Error::new(error.span(), text)
    })?;
    let mut options = Options::default();
    let parser = |input: ParseStream<'_>| {
        attribute::entries(input, &options::KEYS, &mut Vec::new(), |key, entry| options.take(key, &entry))
    };
    parser.parse2(args)?;
    check(&function.sig)?;

    let Arguments { event, others } = arguments(&function.sig)?;
    let wanted = Wanted::of(event)?;
    let registration = options.registration(&function.sig.ident, &wanted)?;
    let states = others.iter().filter(|ty| !matches!(ty, Type::Reference(_))).map(|ty| quote!(.state::<#ty>()));
    let run = run(&options.krate, &function.sig, &wanted, &others);

    let ident = options::emitted(&function.sig.ident);
    let linked = options::linked(&options.krate, &ident, &quote!(#registration #(#states)* .run_fn(#run)));
    let vis = &function.vis;
    Ok(quote! {
        #[doc(hidden)]
        #vis struct #ident {}

        #linked
    })
}

/// A closure that is a `HandlerFn`: finds the arguments and calls the function.
fn run(krate: &Path, signature: &Signature, wanted: &Wanted<'_>, others: &[&Type]) -> TokenStream {
    // Hygienic, so that a function may be called `event` or `cx`.
    let (event, cx) = (Ident::new("event", Span::mixed_site()), Ident::new("cx", Span::mixed_site()));
    let first = match wanted {
        Wanted::Typed(ty) => quote!(#krate::__private::downcast::<#ty>(#event)?),
        Wanted::All => quote!(#event),
    };
    let rest = others.iter().map(|ty| match ty {
        Type::Reference(reference) => {
            let ty = &reference.elem;
            quote!(<#ty as #krate::__private::Borrowed>::from_context(#cx))
        }
        ty => quote!(<#ty as #krate::__private::Argument>::from_context(#cx)?),
    });
    let ident = &signature.ident;
    let outcome = match &signature.output {
        ReturnType::Type(_, ty) if signature.generics.params.is_empty() && !matches!(**ty, Type::ImplTrait(_)) => {
            quote!(<#ty as #krate::IntoOutcome>)
        }
        _ => quote!(#krate::IntoOutcome),
    };
    quote! {
        |#event, #cx| ::std::boxed::Box::pin(async move {
            #outcome::into_outcome(#ident(#first, #(#rest),*).await)
        })
    }
}

/// Refuses what is no handler by its signature alone.
fn check(signature: &Signature) -> Result<()> {
    if let Some(receiver) = signature.receiver() {
        let text = "a handler function has no `self`; what it needs it takes as `State<T>`, \
                    or it is a type with `#[derive(dawdle::EventHandler)]`";
        return Err(Error::new_spanned(receiver, text));
    }
    if signature.asyncness.is_none() {
        return Err(Error::new(signature.fn_token.span, "a handler is async: write `async fn`"));
    }
    if let Safety::Unsafe(token) = &signature.safety {
        return Err(Error::new(token.span, "a handler is safe to call: keep what is unsafe inside of it"));
    }
    for parameter in &signature.generics.params {
        if !matches!(parameter, GenericParam::Lifetime(_)) {
            let text = "a handler has no generics: it registers itself, and nothing would choose the type; \
                        name the types, or call a generic function from handlers that do";
            return Err(Error::new_spanned(parameter, text));
        }
    }
    if matches!(signature.output, ReturnType::Default) {
        let text = "a handler says how it went: write `-> dawdle::Outcome` and end with `Ok(())`";
        return Err(Error::new(signature.ident.span(), text));
    }
    Ok(())
}

struct Arguments<'a> {
    event: &'a Type,
    others: Vec<&'a Type>,
}

fn arguments(signature: &Signature) -> Result<Arguments<'_>> {
    let mut types = signature.inputs.iter().filter_map(|input| match input {
        FnArg::Typed(argument) => Some(ungrouped(&argument.ty)),
        FnArg::Receiver(_) => None,
    });
    let Some(first) = types.next() else {
        let text = "a handler takes its event first: `event: &MyEvent`, or `event: &dyn Event` for every event";
        return Err(Error::new(signature.paren_token.span.join(), text));
    };
    let event = match first {
        Type::Reference(reference) if reference.mutability.is_none() => &*reference.elem,
        _ => {
            let text = "a handler takes its event first, by reference, since its other handlers share it: `&MyEvent`, \
                        or `&dyn Event` for every event";
            return Err(Error::new_spanned(first, text));
        }
    };
    let others: Vec<&Type> = types.collect();
    for ty in &others {
        match ty {
            Type::Reference(reference) if reference.mutability.is_some() => {
                let text = "a handler takes its context by shared reference: `&Context`; \
                            state to change is a `State<T>` with a lock in it";
                return Err(Error::new_spanned(ty, text));
            }
            Type::ImplTrait(_) => {
                return Err(Error::new_spanned(ty, "name the type that the handler takes, as in `State<Mailer>`"));
            }
            _ => {}
        }
    }
    Ok(Arguments { event, others })
}

/// `ty` without parentheses and without the invisible groups that `macro_rules!` leaves.
fn ungrouped(ty: &Type) -> &Type {
    match ty {
        Type::Paren(inner) => ungrouped(&inner.elem),
        Type::Group(inner) => ungrouped(&inner.elem),
        _ => ty,
    }
}
