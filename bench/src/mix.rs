//! Pulls and pushes as they are in the wild, after the traces of IBM's registries (Anwar et al., FAST 2018): nearly all are
//! reads, few images get most of them, 65 % of the layers are below 1 MB and 80 % below 10 MB.
//!
//! What the traces don't say here is our choice: a read is of a manifest as often as of a layer; the largest layers have
//! `largest` bytes; sizes are spread evenly over their logarithms within each share; popularity falls as 1 / rank^skew. A push
//! is a layer and a manifest with a new tag.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    data,
    http::{Connection, head},
    operation::{Done, Turn, push_blob, put_manifest},
    server::Server,
};

const MB: f64 = 1e6;
const SEED: u64 = 0xFA57_2018;
/// Tokens live for five minutes.
const LONGEST: Duration = Duration::from_secs(240);

/// What the mix is made of.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Shape {
    /// Images, each a repository.
    #[arg(long, default_value_t = 100)]
    images: usize,
    /// Layers of an image.
    #[arg(long, default_value_t = 3)]
    layers: usize,
    /// The largest layers, in bytes.
    #[arg(long, default_value_t = 32e6)]
    largest: f64,
    /// Reads, of a hundred operations.
    #[arg(long, default_value_t = 95)]
    reads: u32,
    /// How fast popularity falls.
    #[arg(long, default_value_t = 1.0)]
    skew: f64,
}

/// An image, as requests for it.
#[derive(Debug)]
struct Image {
    manifest: Vec<u8>,
    layers: Vec<Vec<u8>>,
}

/// A load on content that is there.
pub(crate) struct Mix {
    shape: Shape,
    images: Vec<Image>,
    /// The share of all requests that this and the more popular images get.
    popularity: Vec<f64>,
    pusher: (String, String),
    /// Of the largest size; a layer is its end, so that each has its own digest.
    payload: Vec<u8>,
    random: Mutex<StdRng>,
    began: Instant,
}

impl Shape {
    /// The size of a layer.
    fn size(&self, random: &mut StdRng) -> usize {
        let share: f64 = random.random();
        let (least, most) = match share {
            ..0.65 => (1e3, MB),
            0.65..0.8 => (MB, 10.0 * MB),
            _ => (10.0 * MB, self.largest.max(10.0 * MB + 1.0)),
        };
        let (least, most): (f64, f64) = (least, most);
        random.random_range(least.ln()..most.ln()).exp() as usize
    }
}

impl Mix {
    pub(crate) const KINDS: &'static [&'static str] = &["GET manifest", "GET layer", "push"];

    /// Pushes the images.
    pub(crate) async fn fill(server: &Server, shape: Shape) -> anyhow::Result<(Self, u64)> {
        let mut random = StdRng::seed_from_u64(SEED);
        let mut connection = Connection::open(server.address).await?;
        let (mut images, mut bytes) = (Vec::with_capacity(shape.images), 0);
        for number in 0..shape.images {
            let name = format!("mix/app{number}");
            let authorisation = server.pusher(&name).await?;
            let mut layers = Vec::with_capacity(shape.layers);
            for layer in 0..shape.layers {
                let size = shape.size(&mut random);
                let layer = data::content((number * shape.layers + layer) as u64, size);
                push_blob(&mut connection, &authorisation, &name, &layer, &data::digest(&layer)).await?;
                bytes += size as u64;
                layers.push(layer);
            }
            push_blob(&mut connection, &authorisation, &name, b"{}", &data::digest(b"{}")).await?;
            let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
            let manifest = data::image(b"{}", &layers, 0);
            put_manifest(&mut connection, &authorisation, &name, "v1", &manifest).await?;
            let reader = server.puller(&name).await?;
            let headers = [("Authorization", reader.as_str()), ("Accept", data::MANIFEST)];
            let get = |path: String| head("GET", &format!("/v2/{name}/{path}"), &headers, None);
            images.push(Image {
                manifest: get("manifests/v1".to_owned()),
                layers: layers.iter().map(|layer| get(format!("blobs/{}", data::digest(layer)))).collect(),
            });
        }
        let mut popularity: Vec<f64> =
            (1..=shape.images).map(|rank| (rank as f64).powf(-shape.skew)).collect();
        let total: f64 = popularity.iter().sum();
        popularity.iter_mut().fold(0.0, |before, share| {
            *share = *share / total + before;
            *share
        });
        let pushed = "mix/pushed".to_owned();
        let authorisation = server.pusher(&pushed).await?;
        push_blob(&mut connection, &authorisation, &pushed, b"{}", &data::digest(b"{}")).await?;
        let pusher = (server.pusher(&pushed).await?, pushed);
        let payload = data::content(7, shape.largest.max(10.0 * MB + 1.0) as usize);
        let (random, began) = (Mutex::new(random), Instant::now());
        Ok((Self { shape, images, popularity, pusher, payload, random, began }, bytes))
    }

    pub(crate) async fn once(&self, connection: &mut Connection, turn: Turn) -> anyhow::Result<Done> {
        ensure!(self.began.elapsed() < LONGEST, "tokens are about to end: make it shorter");
        let (is_read, is_manifest, place, layer, size) = {
            let mut random = self.random.lock().ok().context("another failed")?;
            let place: f64 = random.random();
            let layer = random.random_range(0..self.shape.layers);
            let is_read = random.random_range(0..100) < self.shape.reads;
            (is_read, random.random(), place, layer, self.shape.size(&mut random))
        };
        if !is_read {
            return self.push(connection, turn, size).await;
        }
        let place = self.popularity.partition_point(|share| *share < place).min(self.images.len() - 1);
        let image = &self.images[place];
        let request = if is_manifest { &image.manifest } else { &image.layers[layer] };
        let answer = connection.exchange(request, &[]).await?;
        ensure!(answer.status == 200, "{} for {:?}", answer.status, String::from_utf8_lossy(request));
        Ok(Done { kind: usize::from(!is_manifest), bytes: answer.length })
    }

    async fn push(&self, connection: &mut Connection, turn: Turn, size: usize) -> anyhow::Result<Done> {
        let (authorisation, name) = &self.pusher;
        let mut layer = self.payload[self.payload.len() - size..].to_vec();
        layer[..8].copy_from_slice(&turn.run.to_le_bytes());
        layer[8..16].copy_from_slice(&turn.number.to_le_bytes());
        push_blob(connection, authorisation, name, &layer, &data::digest(&layer)).await?;
        let manifest = data::image(b"{}", &[&layer], turn.number);
        put_manifest(connection, authorisation, name, &format!("t{}-{}", turn.run, turn.number), &manifest)
            .await?;
        Ok(Done { kind: 2, bytes: (layer.len() + manifest.len()) as u64 })
    }
}
