//! The machinery of settings: what one declaration of the [`settings`] macro turns into.
//!
//! Owns the description of a setting, the kinds of values that flags and files may give, and how a
//! value is printed. Knows no setting by name: `settings.rs` declares them. Called by
//! `settings.rs`, `config.rs` and `cli.rs`.

use std::fmt::Display;
use std::net::SocketAddr;
use std::str::FromStr;

use clap::builder::BoolishValueParser;
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use serde::{Deserialize, Deserializer};
use weir_sfu::config::Takeover;
use weir_sfu::net::StartMode;

use crate::advertise::Advertise;
use crate::cpus::WorkerCpus;
use crate::log::LogFormat;
use crate::origin::CorsOrigins;
use crate::trusted_proxies::TrustedProxies;

/// Description of one setting: its names, its default and its help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Long flag without its dashes, and key in the file.
    pub key: &'static str,
    /// Second name of the flag and of the key.
    pub alias: Option<&'static str>,
    /// Environment variable.
    pub env: &'static str,
    /// Second name of the variable, which holds where the first is absent.
    pub env_alias: Option<&'static str>,
    /// Form of the value, for the help.
    pub value: &'static str,
    /// Section of the help.
    pub heading: &'static str,
    /// Default value, or what holds without one.
    pub default: &'static str,
    /// Help text without the default.
    pub help: &'static str,
    /// Help text with the default.
    pub long_help: &'static str,
    /// Whether SIGHUP applies a new value; otherwise it takes effect after a restart.
    pub reload: bool,
}

impl Setting {
    /// The setting as an argument of the command line.
    pub fn argument<T: Given>(&self) -> Arg {
        let arg = Arg::new(self.key)
            .long(self.key)
            .visible_aliases(self.alias)
            .env(self.env_in_use())
            .value_name(self.value)
            .help(self.long_help)
            .help_heading(self.heading)
            .global(true);
        T::configure(arg)
    }

    /// The variable that is read: the second name if it is set and the first one is not.
    pub fn env_in_use(&self) -> &'static str {
        let is_set = |name: &&str| std::env::var_os(name).is_some();
        self.env_alias.filter(|alias| is_set(alias) && !is_set(&self.env)).unwrap_or(self.env)
    }
}

/// A setting that cannot be used. The text names its key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", Self::text(key, problem))]
pub struct ConfigError {
    /// The setting: the long flag without its dashes, and the key in the file.
    pub key: &'static str,
    /// What was expected, what came, and what to do.
    pub problem: String,
}

impl ConfigError {
    /// Text for the operator; `place` names the setting as it was given.
    pub(crate) fn text(place: &str, problem: &str) -> String {
        format!("bad configuration: {place}: {problem}")
    }
}

/// A kind of value as flags, environment and file give it.
pub trait Given: Sized {
    /// Gives the argument its parser and its number of values.
    fn configure(arg: Arg) -> Arg;

    /// The value of an argument, if a flag or the environment gave one.
    fn read(matches: &ArgMatches, key: &str) -> Option<Self>;

    /// The value of a declared default; none if the text is not of this kind.
    fn parse(default: &str) -> Option<Self>;
}

macro_rules! plain_values {
    ($($type:ty),*) => {$(
        impl Given for $type {
            fn configure(arg: Arg) -> Arg {
                arg.value_parser(value_parser!($type))
            }

            fn read(matches: &ArgMatches, key: &str) -> Option<Self> {
                matches.get_one::<Self>(key).cloned()
            }

            fn parse(default: &str) -> Option<Self> {
                default.parse().ok()
            }
        }
    )*};
}
plain_values!(String);

macro_rules! whole_numbers {
    ($($type:ty),*) => {$(
        impl Given for $type {
            fn configure(arg: Arg) -> Arg {
                // Without this `-1` would be taken for an unknown flag.
                arg.allow_negative_numbers(true)
                    .value_parser(|text: &str| whole_number(text, Self::MAX))
            }

            fn read(matches: &ArgMatches, key: &str) -> Option<Self> {
                matches.get_one::<Self>(key).copied()
            }

            fn parse(default: &str) -> Option<Self> {
                default.parse().ok()
            }
        }
    )*};
}
whole_numbers!(u16, u32, u64, usize);

/// Reads a number without sign, fraction and unit.
///
/// # Errors
/// What is wrong, and what to give instead.
fn whole_number<T>(text: &str, max: T) -> Result<T, String>
where
    T: FromStr + Display,
{
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at_checked(digits).unwrap_or((text, ""));
    Err(match rest {
        "" if digits > 0 => format!("it is above {max}, the largest number that fits"),
        _ if digits == 0 => "it is not a whole number of 0 or more".to_owned(),
        _ => format!("it is not a whole number; give it without {rest}, such as {number}"),
    })
}

/// `--strict`, `--strict=no`, `WEIR_STRICT=1`, `strict = true`.
impl Given for bool {
    fn configure(arg: Arg) -> Arg {
        arg.num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_parser(BoolishValueParser::new())
    }

    fn read(matches: &ArgMatches, key: &str) -> Option<Self> {
        matches.get_one::<Self>(key).copied()
    }

    fn parse(default: &str) -> Option<Self> {
        default.parse().ok()
    }
}

impl Given for LogFormat {
    fn configure(arg: Arg) -> Arg {
        arg.value_parser(value_parser!(Self))
    }

    fn read(matches: &ArgMatches, key: &str) -> Option<Self> {
        matches.get_one::<Self>(key).copied()
    }

    fn parse(default: &str) -> Option<Self> {
        clap::ValueEnum::from_str(default, false).ok()
    }
}

/// Values with commas between them, and flags that may be repeated; in the file also an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List(pub Vec<String>);

impl Given for List {
    fn configure(arg: Arg) -> Arg {
        arg.value_delimiter(',').action(ArgAction::Append).value_parser(value_parser!(String))
    }

    fn read(matches: &ArgMatches, key: &str) -> Option<Self> {
        matches.get_many::<String>(key).map(|values| Self(values.cloned().collect()))
    }

    fn parse(default: &str) -> Option<Self> {
        Some(Self(default.split(',').map(|part| part.trim().to_owned()).collect()))
    }
}

/// `"auto"` and `["203.0.113.7", "2001:db8::7"]` are both valid in the file.
impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum OneOrMany {
            One(String),
            Many(Vec<String>),
        }
        Ok(match OneOrMany::deserialize(input)? {
            OneOrMany::One(one) => {
                Self(one.split(',').map(|part| part.trim().to_owned()).collect())
            }
            OneOrMany::Many(many) => Self(many),
        })
    }
}

/// A value as the effective configuration shows it: as TOML, or `unset`.
pub trait Printed {
    /// Text to the right of `key =`.
    fn toml(&self) -> String;
}

fn quoted(text: impl ToString) -> String {
    toml::Value::from(text.to_string()).to_string()
}

macro_rules! printed {
    ($($type:ty: |$value:ident| $text:expr;)*) => {$(
        impl Printed for $type {
            fn toml(&self) -> String {
                let $value = self;
                $text
            }
        }
    )*};
}
printed! {
    u16: |value| value.to_string();
    u32: |value| value.to_string();
    u64: |value| value.to_string();
    usize: |value| value.to_string();
    bool: |value| value.to_string();
    String: |value| quoted(value);
    SocketAddr: |value| quoted(value);
    StartMode: |value| quoted(value.label());
    Takeover: |value| quoted(value.label());
    WorkerCpus: |value| quoted(value);
    LogFormat: |value| quoted(value.label());
    CorsOrigins: |value| match value {
        CorsOrigins::Own => "unset".into(),
        CorsOrigins::Listed(_) | CorsOrigins::All => quoted(value),
    };
    Option<String>: |value| value.as_ref().map_or("unset".into(), quoted);
    Option<SocketAddr>: |value| value.map_or("unset".into(), quoted);
    TrustedProxies: |value| if value.is_empty() { "unset".into() } else { quoted(value) };
    // Without the setting the addresses are chosen as by `auto`.
    Option<Advertise>: |value| value.as_ref().map_or_else(|| quoted("auto"), quoted);
}

/// Declares settings. One declaration of the form
///
/// ```text
/// /// Help text.
/// field: Given => Type {
///     key "the-flag", alias "other-name" "WEIR_OTHER_NAME", env "WEIR_THE_FLAG", value "N", heading "Running",
///     default "50", reload, read function
/// }
/// ```
///
/// gives the flag, the variable, the key of the file, the merge of all three, the field of `Config`
/// and the printed value. `alias` may be absent. `default "text"` is the value that is read when
/// nobody gave one, and `read` is `fn(Given) -> Result<Type, String>`. `unset "text"` describes
/// what holds then, and `read` is `fn(Option<Given>, &Settings) -> Result<Type, String>`. `reload`
/// means that SIGHUP applies a new value, `restart` that it does not.
macro_rules! settings {
    ($(
        $(#[doc = $doc:literal])+
        $field:ident: $given:ty => $type:ty {
            key $key:literal, $(alias $alias:literal $alias_env:literal,)? env $env:literal, value $value:literal,
            heading $heading:literal, $kind:ident $default:literal, $reload:ident, read $read:expr
        }
    )*) => {
        /// All settings, in the order of the help.
        pub const SETTINGS: &[Setting] = &[$(Setting {
            key: $key,
            alias: settings!(@alias $($alias)?),
            env: $env,
            env_alias: settings!(@alias $($alias_env)?),
            value: $value,
            heading: $heading,
            default: $default,
            help: concat!($($doc),+).trim_ascii(),
            long_help: concat!($($doc,)+ " [default: ", $default, "]").trim_ascii(),
            reload: settings!(@reload $reload),
        }),*];

        /// Settings as one source gives them; absent where it does not.
        #[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Settings {$(
            $(#[doc = $doc])+
            #[serde(rename = $key $(, alias = $alias)?)]
            pub $field: Option<$given>,
        )*}

        impl Settings {
            /// These settings, and those of `other` where these are absent.
            pub fn or(self, other: Self) -> Self {
                Self { $($field: self.$field.or(other.$field),)* }
            }
        }

        impl clap::FromArgMatches for Settings {
            fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Self, clap::Error> {
                Ok(Self { $($field: <$given as Given>::read(matches, $key),)* })
            }

            fn update_from_arg_matches(
                &mut self,
                matches: &clap::ArgMatches,
            ) -> Result<(), clap::Error> {
                *self = Self::from_arg_matches(matches)?.or(std::mem::take(self));
                Ok(())
            }
        }

        impl clap::Args for Settings {
            fn augment_args(command: clap::Command) -> clap::Command {
                let mut described = SETTINGS.iter();
                let mut next = || described.next().expect("one description per setting");
                command$(.arg(next().argument::<$given>()))*
            }

            fn augment_args_for_update(command: clap::Command) -> clap::Command {
                Self::augment_args(command)
            }
        }

        /// The configuration, complete and valid.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Config {$(
            $(#[doc = $doc])+
            pub $field: $type,
        )*}

        impl Config {
            /// Reads each setting by itself; what they mean together is not checked.
            pub(crate) fn read(settings: &Settings) -> Result<Self, ConfigError> {
                Ok(Self {$(
                    $field: settings!(@read settings, $field, $given, $type, $kind $default, $read)
                        .map_err(|problem| ConfigError { key: $key, problem })?,
                )*})
            }

            /// Every key with its value as TOML, in the order of the help.
            pub fn entries(&self) -> Vec<(&'static str, String)> {
                vec![$(($key, Printed::toml(&self.$field))),*]
            }

            /// Takes over the settings that a running server can change; the others stay.
            pub fn apply_reloadable(&mut self, new: Self) {
                $(if settings!(@reload $reload) {
                    self.$field = new.$field;
                })*
            }
        }
    };
    (@alias) => { None };
    (@alias $alias:literal) => { Some($alias) };
    (@reload reload) => { true };
    (@reload restart) => { false };
    (@read $settings:ident, $field:ident, $given:ty, $type:ty, default $default:literal, $read:expr)
    => {{
        let read: fn($given) -> Result<$type, String> = $read;
        let given = $settings.$field.clone().or_else(|| <$given as Given>::parse($default));
        read(given.expect("a test reads every default"))
    }};
    (@read $settings:ident, $field:ident, $given:ty, $type:ty, unset $default:literal, $read:expr)
    => {{
        let read: fn(Option<$given>, &Settings) -> Result<$type, String> = $read;
        read($settings.$field.clone(), $settings)
    }};
}
pub(crate) use settings;
