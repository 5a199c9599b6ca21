# For a CPU:   docker build -t puzzle .
# For a GPU:   docker build -t puzzle --build-arg BASE=<an image with Python 3.11 to 3.13 and CUDA> .
# Search:      docker run -v "$PWD:/work" puzzle search ./parent --text corpus.txt
# pip takes torch from its index by default, with CUDA; PIP_ARGS names another index, such as
# PyTorch's own for CPUs, whose torch is a tenth of the size.
ARG BASE=python:3.12-slim
FROM ${BASE}
ARG PIP_ARGS=""
ARG EXTRAS="demo,serve-llama"
COPY . /opt/puzzle
RUN pip install --no-cache-dir ${PIP_ARGS} -c /opt/puzzle/constraints.txt "/opt/puzzle[${EXTRAS}]" \
    && rm -rf /opt/puzzle
RUN useradd --create-home puzzle && mkdir -p /work && chown puzzle /work
USER puzzle
WORKDIR /work
ENTRYPOINT ["puzzle"]
CMD ["--help"]
