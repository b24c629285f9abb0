//! What a handler may be given, as attribute or as derive: attempts, timeout and the rest.

use std::time::Duration;

use proc_macro2::{Ident, Span, TokenStream};
use quote::quote;
use syn::ext::IdentExt;
use syn::{Error, Expr, Lit, LitStr, Path, Result, Type, TypeParamBound};

use crate::attribute::{self, Entry, Key};

pub(crate) const KEYS: [Key; 8] = [
    ("attempts", "attempts = 8"),
    ("timeout", "timeout = \"30s\""),
    ("concurrency", "concurrency = 4"),
    ("backoff", "backoff = \"1s..10m\""),
    ("name", "name = \"remind\""),
    ("aliases", "aliases(\"old_name\")"),
    ("except", "except(Heartbeat)"),
    ("crate", "crate = \"dawdle\""),
];

/// Up to where a backoff doubles when only its first delay is given.
const LONGEST_DELAY: Duration = Duration::from_secs(6 * 3600);

/// A handler's options, checked as far as they are literals.
pub(crate) struct Options {
    pub(crate) krate: Path,
    name: Option<LitStr>,
    aliases: Vec<LitStr>,
    attempts: Option<Expr>,
    timeout: Option<TokenStream>,
    concurrency: Option<Expr>,
    backoff: Option<Delays>,
    except: Vec<Type>,
    except_span: Span,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            krate: attribute::default_crate(),
            name: None,
            aliases: Vec::new(),
            attempts: None,
            timeout: None,
            concurrency: None,
            backoff: None,
            except: Vec::new(),
            except_span: Span::call_site(),
        }
    }
}

impl Options {
    /// Takes one of [`KEYS`].
    pub(crate) fn take(&mut self, key: &str, entry: &Entry<'_>) -> Result<()> {
        match key {
            "attempts" => self.attempts = Some(count::<u32>(key, entry.value()?)?),
            "timeout" => self.timeout = Some(timeout(entry.value()?)?),
            "concurrency" => self.concurrency = Some(count::<usize>(key, entry.value()?)?),
            "backoff" => self.backoff = Some(Delays::of(entry.value()?)?),
            "name" => {
                let name = entry.text()?;
                attribute::check_name("a handler's name", &name)?;
                self.name = Some(name);
            }
            "aliases" => {
                self.aliases = entry.texts()?;
                self.aliases.iter().try_for_each(|alias| attribute::check_name("a handler's name", alias))?;
            }
            "except" => {
                self.except = entry.list()?;
                self.except_span = entry.key.span();
            }
            _ => self.krate = attribute::crate_path(entry)?,
        }
        Ok(())
    }

    /// The calls that make the registration of the handler `Self`, called `ident` unless it is
    /// named otherwise, of events of type `event`.
    pub(crate) fn registration(&self, ident: &Ident, event: &Wanted<'_>) -> Result<TokenStream> {
        let krate = &self.krate;
        let name = match &self.name {
            Some(name) => name.clone(),
            None => LitStr::new(&ident.unraw().to_string(), ident.span()),
        };
        attribute::check_aliases(&name.value(), &self.aliases)?;
        let new = match event {
            Wanted::Typed(event) => {
                if !self.except.is_empty() {
                    let text = "`except` is for a handler of every event: take `&dyn Event`, or remove `except`";
                    return Err(Error::new(self.except_span, text));
                }
                quote!(of::<Self, #event>)
            }
            Wanted::All => quote!(of_all::<Self>),
        };
        let except = self.except.iter().map(|event| quote!(.except::<#event>()));
        let aliases = (!self.aliases.is_empty()).then(|| {
            let aliases = &self.aliases;
            quote!(.aliases(&[#(#aliases),*]))
        });
        let attempts = self.attempts.as_ref().map(|attempts| quote!(.attempts(#attempts)));
        let timeout = self.timeout.as_ref().map(|timeout| quote!(.timeout(#timeout)));
        let concurrency = self.concurrency.as_ref().map(|concurrency| quote!(.concurrency(#concurrency)));
        let backoff = self.backoff.as_ref().map(|backoff| {
            let backoff = backoff.tokens(krate);
            quote!(.backoff(#backoff))
        });
        Ok(quote! {
            #krate::Registration::#new(#name, #krate::Place { file: ::core::file!(), line: ::core::line!() })
                #(#except)* #aliases #attempts #timeout #concurrency #backoff
        })
    }
}

/// How long to wait between attempts.
enum Delays {
    Between { first: Duration, max: Duration },
    Expression(Expr),
}

impl Delays {
    /// Those of `"1s"`, of `"1s..10m"` or of an expression.
    fn of(value: Expr) -> Result<Self> {
        let Some(text) = text("backoff", "\"1s\"` or `\"1s..10m\"", &value)? else {
            return Ok(Delays::Expression(value));
        };
        let written = text.value();
        let Some((first, max)) = written.split_once("..") else {
            return Ok(Delays::Between { first: duration(&written, text.span())?, max: LONGEST_DELAY });
        };
        let (first, max) = (duration(first, text.span())?, duration(max, text.span())?);
        if max < first {
            let wrong = "the longest delay is shorter than the first; write `\"first..longest\"`, as in `\"1s..10m\"`";
            return Err(Error::new(text.span(), wrong));
        }
        Ok(Delays::Between { first, max })
    }

    fn tokens(&self, krate: &Path) -> TokenStream {
        match self {
            Delays::Between { first, max } => {
                let (first, max) = (tokens(*first), tokens(*max));
                quote!(#krate::Backoff::exponential(#first, #max))
            }
            Delays::Expression(backoff) => quote!(#backoff),
        }
    }
}

/// What a handler wants.
pub(crate) enum Wanted<'a> {
    /// Events of one type.
    Typed(&'a Type),
    /// Every event.
    All,
}

impl<'a> Wanted<'a> {
    /// `ty` as the event of a handler: a type, or `dyn Event`.
    pub(crate) fn of(ty: &'a Type) -> Result<Self> {
        let wrong = |text| Err(Error::new_spanned(ty, text));
        match ty {
            Type::Paren(inner) => Wanted::of(&inner.elem),
            Type::Group(inner) => Wanted::of(&inner.elem),
            Type::TraitObject(object) => {
                let mut bounds = object.bounds.iter();
                match (bounds.next(), bounds.next()) {
                    (Some(TypeParamBound::Trait(bound)), None)
                        if bound.path.segments.last().is_some_and(|last| last.ident == "Event") =>
                    {
                        Ok(Wanted::All)
                    }
                    _ => wrong("a handler of every event takes `dyn Event`, without anything added"),
                }
            }
            Type::ImplTrait(_) => {
                wrong("a handler has one type of event: name it, or take `dyn Event` for every event")
            }
            Type::Reference(_) => wrong("name the event's type without a reference"),
            _ => Ok(Wanted::Typed(ty)),
        }
    }
}

/// A number above zero, or an expression of one.
fn count<T: std::str::FromStr<Err: std::fmt::Display> + PartialEq + From<u8>>(key: &str, value: Expr) -> Result<Expr> {
    match attribute::literal(&value) {
        None => Ok(value),
        Some(Lit::Int(number)) => {
            let parsed = number.base10_parse::<T>().map_err(|problem| {
                Error::new(number.span(), format!("`{key}` is a whole number, as in `{key} = 8`: {problem}"))
            })?;
            if parsed == T::from(0) {
                let repair = match key {
                    "attempts" => "a handler has at least one attempt: `attempts = 1` never retries",
                    _ => "a handler that may not run at all would hold up its events: `concurrency = 1` or more",
                };
                return Err(Error::new(number.span(), repair));
            }
            Ok(value)
        }
        Some(other) => Err(Error::new(other.span(), format!("`{key}` is a whole number, as in `{key} = 8`"))),
    }
}

/// A `Duration` of `"30s"` or of an expression.
fn timeout(value: Expr) -> Result<TokenStream> {
    match text("timeout", "\"30s\"", &value)? {
        Some(text) => Ok(tokens(duration(&text.value(), text.span())?)),
        None => Ok(quote!(#value)),
    }
}

/// The text of a string literal; `None` for an expression.
fn text<'a>(key: &str, example: &str, value: &'a Expr) -> Result<Option<&'a LitStr>> {
    match attribute::literal(value) {
        None => Ok(None),
        Some(Lit::Str(text)) => Ok(Some(text)),
        Some(other) => Err(Error::new(other.span(), format!("`{key}` has a unit: `{key} = {example}`"))),
    }
}

fn duration(text: &str, span: Span) -> Result<Duration> {
    let wrong = |problem: &dyn std::fmt::Display| {
        Error::new(span, format!("`{text}` is no duration ({problem}); write a number and a unit, as in `30s` or `5m`"))
    };
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err(wrong(&"it is zero")),
        Ok(duration) => Ok(duration),
        Err(problem) => Err(wrong(&problem)),
    }
}

fn tokens(duration: Duration) -> TokenStream {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    quote!(::core::time::Duration::new(#seconds, #nanos))
}

/// `ident` where it stands, but known to lints as the macro's word and not as the user's.
pub(crate) fn emitted(ident: &Ident) -> Ident {
    let mut ident = ident.clone();
    ident.set_span(ident.span().resolved_at(Span::call_site()));
    ident
}

/// What makes `ident`'s `__dawdle_handler` run at link time, and what it is.
pub(crate) fn linked(krate: &Path, ident: &Ident, body: &TokenStream) -> TokenStream {
    quote! {
        #[automatically_derived]
        impl #ident {
            #[doc(hidden)]
            pub fn __dawdle_handler() -> #krate::Registration {
                #body
            }
        }

        #krate::__private::inventory::submit! { #krate::__private::LinkedHandler(#ident::__dawdle_handler) }
    }
}
