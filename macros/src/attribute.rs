//! Reading `key = value` and `key(..)` lists, with errors that name the repair.

use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{Attribute, Error, Expr, ExprLit, Ident, Lit, LitStr, Meta, Path, Result, Token, parenthesized, parse_quote};

/// A key that an attribute has, with an example of its use.
pub(crate) type Key = (&'static str, &'static str);

/// One entry of a list: its key is read, its value not yet.
pub(crate) struct Entry<'a> {
    pub(crate) key: &'a Ident,
    example: &'static str,
    input: ParseStream<'a>,
}

impl Entry<'_> {
    /// The `value` of `key = value`.
    pub(crate) fn value<T: Parse>(&self) -> Result<T> {
        if !self.input.peek(Token![=]) {
            return Err(Error::new(self.key.span(), format!("`{}` takes a value: `{}`", self.key, self.example)));
        }
        self.input.parse::<Token![=]>()?;
        if self.input.is_empty() || self.input.peek(Token![,]) {
            return Err(Error::new(self.key.span(), format!("`{}` takes a value: `{}`", self.key, self.example)));
        }
        self.input.parse()
    }

    /// The text of `key = "text"`.
    pub(crate) fn text(&self) -> Result<LitStr> {
        let value: Expr = self.value()?;
        match literal(&value) {
            Some(Lit::Str(text)) => Ok(text.clone()),
            _ => Err(Error::new_spanned(value, format!("`{}` is text in quotes: `{}`", self.key, self.example))),
        }
    }

    /// Whether it is on: `key` alone, `key = true` or `key = false`.
    pub(crate) fn flag(&self) -> Result<bool> {
        if !self.input.peek(Token![=]) {
            return Ok(true);
        }
        let value: Expr = self.value()?;
        match literal(&value) {
            Some(Lit::Bool(yes)) => Ok(yes.value),
            _ => Err(Error::new_spanned(value, format!("`{0}` is `{0}`, or `{0} = false`", self.key))),
        }
    }

    /// The texts of `key("text", ..)`.
    pub(crate) fn texts(&self) -> Result<Vec<LitStr>> {
        let texts = self.list::<Expr>()?.into_iter().map(|value| match literal(&value) {
            Some(Lit::Str(text)) => Ok(text.clone()),
            _ => Err(Error::new_spanned(value, format!("`{}` are texts in quotes: `{}`", self.key, self.example))),
        });
        texts.collect()
    }

    /// The items of `key(item, ..)`, of which there is at least one.
    pub(crate) fn list<T: Parse>(&self) -> Result<Vec<T>> {
        let wrong = |what: &str| Error::new(self.key.span(), format!("`{}` {what}: `{}`", self.key, self.example));
        if !self.input.peek(syn::token::Paren) {
            return Err(wrong("takes a list in parentheses"));
        }
        let items;
        parenthesized!(items in self.input);
        if items.is_empty() {
            return Err(wrong("is empty; name at least one, or remove it"));
        }
        Ok(Punctuated::<T, Token![,]>::parse_terminated(&items)?.into_iter().collect())
    }
}

/// Reads a whole list, giving each entry to `take`; refuses keys that are unknown or repeated.
pub(crate) fn entries(
    input: ParseStream<'_>,
    keys: &[Key],
    seen: &mut Vec<String>,
    mut take: impl FnMut(&str, Entry<'_>) -> Result<()>,
) -> Result<()> {
    while !input.is_empty() {
        let key = Ident::parse_any(input)?;
        let name = key.to_string();
        let Some((_, example)) = keys.iter().find(|(known, _)| *known == name) else {
            return Err(Error::new(key.span(), format!("unknown option `{name}`; the options are {}", listed(keys))));
        };
        if seen.contains(&name) {
            return Err(Error::new(key.span(), format!("`{name}` is given twice; remove one")));
        }
        take(&name, Entry { key: &key, example, input })?;
        seen.push(name);
        if !input.is_empty() {
            input.parse::<Token![,]>()?;
        }
    }
    Ok(())
}

/// Reads the entries of every attribute called `name` as if they were one list.
pub(crate) fn helper_attributes(
    attributes: &[Attribute],
    name: &str,
    keys: &[Key],
    mut take: impl FnMut(&str, Entry<'_>) -> Result<()>,
) -> Result<()> {
    let mut seen = Vec::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident(name)) {
        match &attribute.meta {
            Meta::List(list) => {
                let parser = |input: ParseStream<'_>| entries(input, keys, &mut seen, &mut take);
                parser.parse2(list.tokens.clone())?;
            }
            meta => return Err(Error::new_spanned(meta, format!("write `#[{name}(..)]`, with {}", listed(keys)))),
        }
    }
    Ok(())
}

fn listed(keys: &[Key]) -> String {
    keys.iter().map(|(_, example)| format!("`{example}`")).collect::<Vec<_>>().join(", ")
}

/// `value` as a literal, looked for behind the invisible groups that `macro_rules!` leaves.
pub(crate) fn literal(value: &Expr) -> Option<&Lit> {
    match value {
        Expr::Lit(ExprLit { lit, .. }) => Some(lit),
        Expr::Group(group) => literal(&group.expr),
        _ => None,
    }
}

/// Where the output finds dawdle, unless `crate = ".."` says otherwise.
pub(crate) fn default_crate() -> Path {
    parse_quote!(::dawdle)
}

/// The path of `crate = "path"`.
pub(crate) fn crate_path(entry: &Entry<'_>) -> Result<Path> {
    let text = entry.text()?;
    text.parse_with(Path::parse_mod_style).map_err(|_| {
        Error::new(text.span(), "not a path; name the dependency as this crate does: `crate = \"dawdle\"`")
    })
}

/// How long a name on the wire may be.
const LONGEST_NAME: usize = 128;

/// Refuses what cannot be `what`, a name on the wire.
pub(crate) fn check_name(what: &str, literal: &LitStr) -> Result<()> {
    let name = literal.value();
    let wrong = |text: String| Err(Error::new(literal.span(), text));
    if name.is_empty() {
        return wrong(format!("{what} is empty; write one, as in `trial.ending`"));
    }
    if name.len() > LONGEST_NAME {
        return wrong(format!("{what} has at most {LONGEST_NAME} bytes, this one has {}", name.len()));
    }
    if let Some(c) = name.chars().find(|c| c.is_whitespace() || c.is_control()) {
        return wrong(format!(
            "{what} has no whitespace and no control characters, this one has {c:?}; separate its words by dots"
        ));
    }
    Ok(())
}

/// Refuses aliases that say nothing new beside `name`.
pub(crate) fn check_aliases(name: &str, aliases: &[LitStr]) -> Result<()> {
    for (index, alias) in aliases.iter().enumerate() {
        let text = alias.value();
        if text == name {
            return Err(Error::new(alias.span(), format!("`{name}` is the name itself; remove the alias")));
        }
        if aliases[..index].iter().any(|other| other.value() == text) {
            return Err(Error::new(alias.span(), format!("the alias `{text}` is given twice; remove one")));
        }
    }
    Ok(())
}
