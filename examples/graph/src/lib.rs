//! A graph of deployments composed by handles: `driver` sends its input through `preprocess` and then `model`.

use decurion::prelude::*;

/// Adds one.
#[derive(Debug, Default)]
pub struct Preprocess;

#[deployment]
impl Preprocess {
    /// `x + 1`.
    pub fn run(&self, x: i64) -> i64 {
        x.saturating_add(1)
    }
}

/// Adds what it was built with.
#[derive(Debug)]
pub struct Model {
    increment: i64,
}

#[deployment]
impl Model {
    fn new(increment: i64) -> Self {
        Self { increment }
    }

    /// `x + increment`.
    pub fn run(&self, x: i64) -> i64 {
        x.saturating_add(self.increment)
    }
}

decurion::client!(pub StepClient {
    fn run(&self, x: i64) -> i64;
});

/// Runs the steps one after the other.
#[derive(Debug)]
pub struct Driver {
    preprocess: StepClient,
    model: StepClient,
}

#[deployment]
impl Driver {
    fn new(preprocess: StepClient, model: StepClient) -> Self {
        Self { preprocess, model }
    }

    fn call(&self, req: Request) -> Result<Json<i64>> {
        self.run(req.json()?).map(Json)
    }

    /// The whole graph.
    pub fn run(&self, input: i64) -> Result<i64> {
        self.model.run(self.preprocess.run(input)?)
    }
}

#[cfg(test)]
mod tests {
    use decurion::test::LocalApp;

    use super::*;

    #[test]
    fn one_gives_four() {
        let app = LocalApp::new();
        app.deploy::<Preprocess>("preprocess", ()).unwrap();
        app.deploy::<Model>("model", json!({ "increment": 2 })).unwrap();
        let args = json!({ "preprocess": "@preprocess", "model": "@model" });
        let driver = app.deploy::<Driver>("driver", args).unwrap();
        assert_eq!(driver.call::<i64>("run", (1i64,)).unwrap(), 4);
        assert_eq!(driver.request(Request::post("/", "1")).unwrap().text().unwrap(), "4");
    }
}
