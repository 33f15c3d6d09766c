//! Where in its file a deployment says what turns out to be wrong only when a replica is given it.

use std::collections::BTreeMap;

use decurion_api::DeploymentName;
use decurion_api::spec::ApplicationSpec;
use decurion_api::spec::file::{Position, user_config_positions};
use decurion_api::status::USER_CONFIG_REFUSED;

/// The places in one file; in none, where there is no file.
#[derive(Debug, Default)]
pub(super) struct Source {
    file: String,
    /// The place in the list of deployments, and that of the `user_config` in the text.
    user_configs: BTreeMap<DeploymentName, (usize, Option<Position>)>,
}

impl Source {
    /// Of what was read from this text; JSON has no lines.
    pub(super) fn of(file: &str, text: Option<&str>, spec: &ApplicationSpec) -> Self {
        let positions = text.map(user_config_positions).unwrap_or_default();
        let user_configs = spec
            .deployments
            .iter()
            .enumerate()
            .filter(|(_, deployment)| deployment.user_config.is_some())
            .map(|(place, it)| (it.name.clone(), (place, positions.get(place).copied().flatten())))
            .collect();
        Self { file: file.to_owned(), user_configs }
    }

    /// `FILE:LINE:COLUMN: FIELD: ..` of what a message is about.
    pub(super) fn place_of(&self, deployment: &DeploymentName, message: &str) -> Option<String> {
        let (_, why) = message.split_once(USER_CONFIG_REFUSED)?;
        let (place, position) = self.user_configs.get(deployment)?;
        let at = position.map_or_else(String::new, |it| format!("{}:{}:", it.line, it.column));
        let why = why.trim_start_matches(':').lines().next().unwrap_or_default().trim();
        Some(format!("{}:{at} deployment[{place}].user_config: {why}", self.file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_user_config_is_found_in_its_file_and_nothing_else_is() {
        let text = "application = \"a\"\n[[deployment]]\nname = \"x\"\nlibrary = \"x.so\"\n[[deployment]]\nname = \"y\"\n\
                    library = \"x.so\"\nuser_config = 5\n";
        let spec = decurion_api::spec::file::read_toml(text, "f.toml").unwrap();
        let name = |name: &str| DeploymentName::new(name).unwrap();
        let message = "replica y-1 refused the user_config: not that\nnor this";
        let source = Source::of("f.toml", Some(text), &spec);
        let place = "f.toml:8:1: deployment[1].user_config: not that".to_owned();
        assert_eq!(source.place_of(&name("y"), message), Some(place));
        assert_eq!(source.place_of(&name("x"), message), None);
        assert_eq!(source.place_of(&name("y"), "exited with code 1"), None);
        let place = "f.json: deployment[1].user_config: not that".to_owned();
        assert_eq!(Source::of("f.json", None, &spec).place_of(&name("y"), message), Some(place));
    }
}
